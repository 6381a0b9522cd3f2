"""LAPQ: clips by norms, by a parabola, and by the loss."""

import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.methods.lapq import _vertex
from mq_jax.quantizers import quantize
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


def test_levels_and_the_mean_of_each_channel():
  w = common.weight(1, (3, 3, 8, 4))
  plain = methods.clipped_uniform(2, corrected=False)
  w_hat = common.values(plain, w, jnp.array(1.2))
  levels = np.array([-1.2, -0.4, 0.4, 1.2])
  own = np.asarray(w)
  nearest = levels[np.argmin(np.abs(own[..., None] - levels), axis=-1)]
  np.testing.assert_allclose(w_hat, nearest)
  corrected = methods.clipped_uniform(2)
  moved = common.values(corrected, w, jnp.array(1.2))
  np.testing.assert_allclose(
    moved.mean(axis=(0, 1, 2)), own.mean(axis=(0, 1, 2)), atol=1e-12
  )
  difference = moved - w_hat
  assert np.max(np.ptp(difference, axis=(0, 1, 2))) < 1e-12
  assert float(corrected.init(w)) == np.abs(own).max()
  assert float(corrected.init(jnp.zeros((2, 2)))) == 1


@pytest.mark.parametrize('power', [2.0, 3.5])
def test_a_norm_s_clip_is_the_best_of_a_fine_grid(power):
  w = common.weight(2, (300, 4))
  quantizer = methods.clipped_uniform(3, corrected=False)

  def error(alpha):
    w_hat = common.values(quantizer, w, jnp.asarray(alpha))
    return np.mean(np.abs(w_hat - w) ** power)

  alpha = float(methods.norm_clip(quantizer, w, jnp.asarray(power)))
  largest = float(np.max(np.abs(w)))
  fine = min(error(f * largest) for f in np.linspace(0.02, 1, 400))
  assert error(alpha) <= 1.02 * fine


def test_the_vertex_of_a_parabola():
  powers = [2.0, 2.5, 3.0, 4.0]
  losses = [(p - 2.8) ** 2 + 1 for p in powers]
  assert _vertex(powers, losses) == pytest.approx(2.8)
  # One that is open below, or has its vertex outside, is no guide.
  assert _vertex(powers, [-x for x in losses]) == 4.0
  assert _vertex(powers, [(p - 9) ** 2 for p in powers]) == 4.0


def test_the_search_never_raises_the_loss_and_finds_what_norms_cannot():
  """Two layers whose errors may cancel: only the joint search can know."""
  params = {'a': common.weight(3, (40, 3)), 'b': common.weight(4, (40, 3))}
  whole = jnp.sum(params['a'] * params['b'])

  def loss(own):
    return (jnp.sum(own['a'] * own['b']) - whole) ** 2

  quantizer = methods.clipped_uniform(2)
  found = methods.lapq(loss, params, quantizer, sweeps=2)
  own = {
    path: quantize(quantizer, w, found.variables[path])
    for path, w in params.items()
  }
  assert float(loss(own)) == pytest.approx(found.losses['end'], rel=1e-6)
  assert found.losses['end'] < 0.1 * found.losses['start']
  assert 2 <= found.power <= 4
  none = methods.lapq(loss, params, quantizer, sweeps=0)
  assert none.losses['end'] == none.losses['start'] == found.losses['start']


def test_leaves_without_a_quantizer_are_left():
  params = {'a': common.weight(5, (9, 3)), 'b': common.weight(6, (9, 3))}
  seen = []

  def loss(own):
    seen.append(own['b'])
    return jnp.sum((own['a'] - params['a']) ** 2)

  rules = [('a', methods.clipped_uniform(3)), ('b', None)]
  found = methods.lapq(loss, params, rules, sweeps=0)
  assert list(found.variables) == ['a']
  np.testing.assert_array_equal(seen[0], params['b'])


def test_arguments_out_of_range_are_refused():
  with pytest.raises(ValueError, match='bits=9'):
    methods.clipped_uniform(9)
  with pytest.raises(ValueError, match='powers='):
    methods.lapq(lambda p: 0.0, {}, mq_jax.bwn(), powers=(2, 3))
