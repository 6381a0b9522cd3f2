"""Tests LAPQ: clips chosen by norms, by a parabola, and by the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.methods.lapq import _vertex
from mq_jax.quantizers import quantize
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


def test_clipped_uniform_rounds_to_nearest_level_and_keeps_channel_means():
  w = common.weight(1, (3, 3, 8, 4))
  plain = methods.clipped_uniform(2, corrected=False)
  w_hat = common.values(plain, w, jnp.array(1.2))
  levels = np.array([-1.2, -0.4, 0.4, 1.2])
  weights = np.asarray(w)
  nearest = levels[np.argmin(np.abs(weights[..., None] - levels), axis=-1)]
  np.testing.assert_allclose(w_hat, nearest)
  corrected = methods.clipped_uniform(2)
  moved = common.values(corrected, w, jnp.array(1.2))
  np.testing.assert_allclose(
    moved.mean(axis=(0, 1, 2)), weights.mean(axis=(0, 1, 2)), atol=1e-12
  )
  difference = moved - w_hat
  assert np.max(np.ptp(difference, axis=(0, 1, 2))) < 1e-12
  assert float(corrected.init(w)) == np.abs(weights).max()
  assert float(corrected.init(jnp.zeros((2, 2)))) == 1


@pytest.mark.parametrize('power', [2.0, 3.5])
def test_lp_clip_matches_fine_grid(power):
  w = common.weight(2, (300, 4))
  quantizer = methods.clipped_uniform(3, corrected=False)

  def error(alpha):
    w_hat = common.values(quantizer, w, jnp.asarray(alpha))
    return np.mean(np.abs(w_hat - w) ** power)

  alpha = float(methods.lp_clip(quantizer, w, jnp.asarray(power)))
  largest = float(np.max(np.abs(w)))
  fine = min(error(f * largest) for f in np.linspace(0.02, 1, 400))
  assert error(alpha) <= 1.02 * fine
  corrected = methods.clipped_uniform(3, corrected=True)
  assert float(methods.lp_clip(corrected, w, jnp.asarray(power))) == alpha


def test_vertex_matches_parabola():
  powers = [2.0, 2.5, 3.0, 4.0]
  losses = [(p - 2.8) ** 2 + 1 for p in powers]
  assert _vertex(powers, losses) == pytest.approx(2.8)
  # The fit is not used if it opens downwards or if its vertex is outside.
  assert _vertex(powers, [-x for x in losses]) == 4.0
  assert _vertex(powers, [(p - 9) ** 2 for p in powers]) == 4.0


def test_lapq_joint_search_lowers_loss():
  """Uses two layers whose errors cancel only if their clips change together."""
  params = {'a': common.weight(3, (40, 3)), 'b': common.weight(4, (40, 3))}
  target = jnp.sum(params['a'] * params['b'])

  def loss_of(params, target):
    return (jnp.sum(params['a'] * params['b']) - target) ** 2

  def loss(params):
    return loss_of(params, target)

  quantizer = methods.clipped_uniform(2, corrected=False)
  rules = [('.*', quantizer)]
  found = methods.lapq(loss, params, rules, sweeps=2)
  w_hat = {
    path: quantize(quantizer, w, found.variables[path])
    for path, w in params.items()
  }
  assert float(loss(w_hat)) == pytest.approx(found.losses['end'], rel=1e-6)
  # The correction follows the search, which does not depend on it.
  rules = [('.*', methods.clipped_uniform(2, corrected=True))]
  corrected = methods.lapq(loss, params, rules, sweeps=2)
  assert corrected == found
  assert found.losses['end'] < 0.1 * found.losses['start']
  assert 2 <= found.power <= 4
  # Arguments of the loss need not be constants of its program.
  assert methods.lapq(loss_of, params, rules, args=(target,), sweeps=2) == found
  start = methods.lapq(loss, params, rules, sweeps=0)
  assert start.losses['end'] == start.losses['start'] == found.losses['start']


def test_lapq_leaf_without_quantizer_is_unchanged():
  params = {'a': common.weight(5, (9, 3)), 'b': common.weight(6, (9, 3))}
  inputs = []

  def loss(w_hat):
    inputs.append(w_hat['b'])
    return jnp.sum((w_hat['a'] - params['a']) ** 2)

  rules = [('a', methods.clipped_uniform(3)), ('b', None)]
  found = methods.lapq(loss, params, rules, sweeps=0)
  assert list(found.variables) == ['a']
  np.testing.assert_array_equal(inputs[0], params['b'])


def test_lapq_invalid_arguments_raise():
  with pytest.raises(ValueError, match='bits=9'):
    methods.clipped_uniform(9)
  with pytest.raises(ValueError, match='powers='):
    methods.lapq(lambda p: 0.0, {}, mq_jax.bwn(), powers=(2, 3))


def test_lapq_losses_that_are_not_finite_raise():
  params = {'kernel': jax.random.normal(jax.random.key(0), (8, 4))}
  with pytest.raises(ValueError, match='compares finite losses'):
    methods.lapq(
      lambda p: jnp.nan * jnp.sum(p['kernel']),
      params,
      methods.clipped_uniform(2),
    )


def test_lapq_one_weight_per_channel_raises():
  params = {'kernel': jnp.linspace(-1, 1, 8)[None]}
  with pytest.raises(ValueError, match='kernel: Each weight of shape'):
    methods.lapq(lambda p: jnp.ones(()), params, methods.clipped_uniform(2))
