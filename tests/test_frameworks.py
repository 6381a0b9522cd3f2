"""Tests that the same network in four frameworks takes the same steps."""

import subprocess
import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import mq_jax

CHANNELS, CLASSES, STEPS = 4, 3, 3


def weights():
  """Returns the kernel (HWIO) and bias of a convolution, and a dense kernel."""
  keys = jax.random.split(jax.random.key(0), 3)
  return (
    0.2 * jax.random.normal(keys[0], (3, 3, 2, CHANNELS)),
    0.1 * jax.random.normal(keys[1], (CHANNELS,)),
    0.2 * jax.random.normal(keys[2], (CHANNELS, CLASSES)),
  )


def batches():
  for index in range(STEPS + 1):
    x_key, y_key = jax.random.split(jax.random.key(index + 1))
    yield {
      'image': jax.random.normal(x_key, (8, 6, 6, 2)),
      'label': jax.random.randint(y_key, (8,), 0, CLASSES),
    }


def cross_entropy(logits, batch):
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).mean()


def make_plain():
  def loss_fn(params, model_state, batch, rng):
    x = lax.conv_general_dilated(
      batch['image'],
      params['conv']['kernel'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x + params['conv']['bias'][None, None, None, :])
    logits = x.mean((1, 2)) @ params['dense']['kernel']
    return cross_entropy(logits, batch), (model_state, {})

  kernel, bias, dense = weights()
  params = {
    'conv': {'kernel': kernel, 'bias': bias},
    'dense': {'kernel': dense},
  }
  return (
    loss_fn,
    params,
    mq_jax.bwn(),
    lambda p: (
      p['conv']['kernel'],
      p['dense']['kernel'],
    ),
  )


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(CHANNELS, (3, 3))(x))
    return nn.Dense(CLASSES, use_bias=False)(x.mean((1, 2)))


def make_linen():
  net = LinenNet()

  def loss_fn(params, model_state, batch, rng):
    logits = net.apply({'params': params}, batch['image'])
    return cross_entropy(logits, batch), (model_state, {})

  kernel, bias, dense = weights()
  params = {
    'Conv_0': {'kernel': kernel, 'bias': bias},
    'Dense_0': {'kernel': dense},
  }
  return (
    loss_fn,
    params,
    mq_jax.bwn(),
    lambda p: (
      p['Conv_0']['kernel'],
      p['Dense_0']['kernel'],
    ),
  )


class NNXNet(nnx.Module):
  def __init__(self, dtype, rngs):
    self.conv = nnx.Conv(2, CHANNELS, (3, 3), param_dtype=dtype, rngs=rngs)
    self.dense = nnx.Linear(
      CHANNELS, CLASSES, use_bias=False, param_dtype=dtype, rngs=rngs
    )

  def __call__(self, x):
    return self.dense(nnx.relu(self.conv(x)).mean((1, 2)))


def make_nnx():
  kernel, bias, dense = weights()
  net = NNXNet(kernel.dtype, nnx.Rngs(0))
  net.conv.kernel[...], net.conv.bias[...] = kernel, bias
  net.dense.kernel[...] = dense
  graph, params = nnx.split(net, nnx.Param)

  def loss_fn(params, model_state, batch, rng):
    logits = nnx.merge(graph, params)(batch['image'])
    return cross_entropy(logits, batch), (model_state, {})

  return (
    loss_fn,
    params,
    mq_jax.bwn(),
    lambda p: (
      p['conv']['kernel'][...],
      p['dense']['kernel'][...],
    ),
  )


class EquinoxNet(eqx.Module):
  conv: eqx.nn.Conv2d
  dense: eqx.nn.Linear

  def __call__(self, x):  # one image, channels first
    return self.dense(jax.nn.relu(self.conv(x)).mean((1, 2)))


def make_equinox():
  keys = jax.random.split(jax.random.key(9))
  net = EquinoxNet(
    eqx.nn.Conv2d(2, CHANNELS, 3, padding=1, key=keys[0]),
    eqx.nn.Linear(CHANNELS, CLASSES, use_bias=False, key=keys[1]),
  )
  kernel, bias, dense = weights()
  net = eqx.tree_at(
    lambda n: (n.conv.weight, n.conv.bias, n.dense.weight),
    net,
    (kernel.transpose(3, 2, 0, 1), bias[:, None, None], dense.T),
  )
  params, static = eqx.partition(net, eqx.is_array)

  def loss_fn(params, model_state, batch, rng):
    net = eqx.combine(params, static)
    logits = jax.vmap(net)(batch['image'].transpose(0, 3, 1, 2))
    return cross_entropy(logits, batch), (model_state, {})

  # The bias of an Equinox convolution has three dimensions: a bare quantizer
  # would quantize it.
  rules = [('.*/weight', mq_jax.bwn())]
  return (
    loss_fn,
    params,
    rules,
    lambda p: (
      p.conv.weight.transpose(2, 3, 1, 0),
      p.dense.weight.T,
    ),
  )


def train_network(make):
  loss_fn, params, quantizer, kernels = make()
  train = mq_jax.make_train_step(
    loss_fn,
    quantizer,
    mq_jax.multi_fc(hidden=3),
    refine=optax.scale_by_adam(),
    learning_rate=0.05,
  )
  first, *rest = batches()
  state, losses = train.init(jax.random.key(5), params, {}, first), []
  for batch in rest:
    state, metrics = train.step(state, batch)
    losses.append(metrics['loss'])
  return losses, kernels(train.quantized(state)), state.phi


@pytest.mark.parametrize('make', [make_linen, make_nnx, make_equinox])
def test_step_each_framework_equals_plain_dicts(x64, make):
  ours, theirs = train_network(make_plain), train_network(make)
  assert any(
    np.any(np.sign(a) != np.sign(b))
    for a, b in zip(ours[1], (weights()[0], weights()[2]), strict=True)
  )
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_init_tied_weights_of_nnx_are_one_leaf_and_of_equinox_raise():
  class Tied(nnx.Module):
    def __init__(self, rngs):
      self.inner = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
      self.outer = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
      self.outer.kernel = self.inner.kernel

  def loss_fn(params, model_state, batch, rng):
    return sum(leaf.sum() for leaf in jax.tree.leaves(params)), ({}, {})

  train = mq_jax.make_train_step(
    loss_fn, [('.*inner.*', mq_jax.bwn())], mq_jax.ste()
  )
  params = nnx.split(Tied(nnx.Rngs(0)), nnx.Param)[1]
  state = train.init(jax.random.key(0), params, {}, 0.0)
  assert list(state.variables) == ['inner/kernel/value']
  linear = eqx.nn.Linear(4, 4, use_bias=False, key=jax.random.key(0))
  with pytest.raises(ValueError, match='inner/weight and outer/weight'):
    train.init(jax.random.key(0), {'inner': linear, 'outer': linear}, {}, 0.0)


class ScannedBlock(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    mixed = nn.MultiHeadDotProductAttention(num_heads=2, use_bias=False)(
      nn.RMSNorm()(x), mask=nn.make_causal_mask(x[..., 0])
    )
    hidden = nn.Dense(16, use_bias=False)(nn.RMSNorm()(x + mixed))
    return x + mixed + nn.Dense(8, use_bias=False)(nn.silu(hidden)), None


class UnrolledNet(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(5, 8)(tokens)
    for number in range(3):
      x, _ = ScannedBlock(name=f'block{number}')(x, None)
    return nn.Dense(5)(x)


class ScannedNet(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(5, 8)(tokens)
    blocks = nn.scan(
      ScannedBlock, {'params': 0}, split_rngs={'params': True}, length=3
    )
    x, _ = blocks(name='blocks')(x, None)
    return nn.Dense(5)(x)


def test_scanned_linen_transformer_trains_as_the_same_blocks_unrolled(x64):
  """A learned rule is shared by all layers, and scales are per layer."""
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (6, 4, 7)))
  start = UnrolledNet().init(jax.random.key(0), tokens[0])['params']
  start = jax.tree.map(lambda x: x.astype(float), start)
  names = [f'block{number}' for number in range(3)]
  stacked = {key: value for key, value in start.items() if key not in names}
  stacked['blocks'] = jax.tree.map(
    lambda *layers: jnp.stack(layers), *(start[name] for name in names)
  )

  def trained(net, params, rules):
    def loss_fn(params, model_state, batch, rng):
      logits = net.apply({'params': params}, batch[:, :-1])
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch[:, 1:]
      )
      return losses.mean(), (model_state, {})

    train = mq_jax.make_train_step(
      loss_fn,
      rules,
      mq_jax.multi_fc(hidden=3),
      refine=optax.scale_by_adam(),
      learning_rate=0.05,
    )
    state = train.init(jax.random.key(5), params, {}, tokens[0])
    for batch in tokens[1:]:
      state, metrics = train.step(state, batch)
    return metrics['loss'], train.quantized(state), state.phi

  loss, weights, phi = trained(
    ScannedNet(),
    stacked,
    [('blocks/.*/kernel', mq_jax.per(mq_jax.bwn(), axes=0))],
  )
  expected_loss, expected, expected_phi = trained(
    UnrolledNet(), start, [('block./.*/kernel', mq_jax.bwn())]
  )
  again = jax.tree.map(
    lambda *layers: jnp.stack(layers), *(expected[name] for name in names)
  )
  assert len(jnp.unique(jnp.abs(weights['blocks']['Dense_0']['kernel']))) == 3
  for ours, theirs in (
    (loss, expected_loss),
    (phi, expected_phi),
    (weights['blocks'], again),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9),
      ours,
      theirs,
    )


@pytest.mark.slow
def test_import_mq_jax_imports_no_framework():
  code = (
    'import mq_jax, sys; print(*{name.split(".")[0] for name in sys.modules})'
  )
  output = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.split()
  assert 'mq_jax' in output
  others = {'flax', 'equinox', 'haiku', 'ml_collections', 'orbax'}
  assert not others & set(output)
  assert 'experiments' not in output
