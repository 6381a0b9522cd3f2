"""Tests that unfolded norms keep the function of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mq_jax import models
from mq_jax.selection import named_leaves
from tests.models.test_folding import network

pytestmark = pytest.mark.usefixtures('x64')


def test_unfold_norms_keeps_logits_in_evaluation_and_gives_them_in_training():
  net, variables, x = network()
  params, stats = variables['params'], variables['batch_stats']
  before = net.apply(variables, x, train=False)
  new_params, new_stats = models.unfold_norms(net, params, stats, x)
  new = {'params': new_params, 'batch_stats': new_stats}
  after = net.apply(new, x, train=False)
  trained, updated = net.apply(new, x, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(trained, before, rtol=1e-9, atol=1e-9)
  # A network whose norms keep other statistics does not give them in training.
  plain, _ = net.apply(variables, x, train=True, mutable=['batch_stats'])
  assert float(jnp.max(jnp.abs(plain - before))) > 0.1
  old, changed = named_leaves(params), named_leaves(new_params)
  for path, leaf in old.items():
    if path.startswith('head'):
      assert changed[path] is leaf
    elif path.endswith('kernel'):
      ratio = np.asarray(changed[path] / leaf)
      np.testing.assert_allclose(
        ratio, np.broadcast_to(ratio[0, 0, 0], ratio.shape), rtol=1e-9
      )
  # The statistics are those of the batch: a step moves the means nowhere.
  means = named_leaves(updated['batch_stats'])
  for path, leaf in named_leaves(new_stats).items():
    assert leaf.shape == means[path].shape
    if path.endswith('var'):
      np.testing.assert_allclose(leaf, 1, atol=1e-4)
    if path.endswith('mean'):
      np.testing.assert_allclose(means[path], leaf, rtol=1e-9, atol=1e-9)


class OneNorm(nn.Module):
  """A network that is one norm."""

  @nn.compact
  def __call__(self, x, train):
    return models.BatchNorm(jnp.float64, name='norm')(x, train)


def test_unfold_norms_folded_norm_has_closed_form():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(3.0, 2.0, (6, 5, 4)))
  shift, epsilon = jnp.asarray(rng.normal(size=4)), models.BatchNorm.epsilon
  params = {'norm': {'scale': jnp.ones(4), 'bias': shift}}
  stats = {'norm': {'mean': jnp.zeros(4), 'var': jnp.full(4, 1 - epsilon)}}
  params, stats = models.unfold_norms(OneNorm(), params, stats, x)
  mean, var = np.mean(x, (0, 1)), np.var(x, (0, 1))
  for found, expected in (
    (stats['norm']['mean'], mean),
    (stats['norm']['var'], var),
    (params['norm']['scale'], np.sqrt(var + epsilon)),
    (params['norm']['bias'], shift + mean),
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-12)


class Block(nn.Module):
  """A layer and norms with an ε of their own, in either order."""

  norm_first: bool = False

  @nn.compact
  def __call__(self, x, train):
    norm = models.BatchNorm(jnp.float64, epsilon=0.5, name='norm1')
    layer = nn.Conv(4, (3,), name='conv1', param_dtype=jnp.float64)
    for part in (norm, layer) if self.norm_first else (layer, norm):
      x = part(x, train) if part is norm else part(x)
    return nn.relu(x)


def block_variables(net):
  x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (6, 5, 4)))
  variables = net.init(jax.random.key(0), x, train=False)
  stats = {'norm1': {'mean': jnp.arange(4.0), 'var': jnp.arange(1.0, 5.0)}}
  return variables['params'], stats, x


def test_unfold_norms_uses_the_epsilon_of_each_norm():
  net = Block()
  params, stats, x = block_variables(net)
  before = net.apply({'params': params, 'batch_stats': stats}, x, train=False)
  params, stats = models.unfold_norms(net, params, stats, x)
  after = net.apply({'params': params, 'batch_stats': stats}, x, train=False)
  np.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-10)


def test_unfold_norms_norm_before_its_layer_raises():
  net = Block(norm_first=True)
  with pytest.raises(ValueError, match='does not directly follow the layer'):
    models.unfold_norms(net, *block_variables(net))
