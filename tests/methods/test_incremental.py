"""Tests INQ's powers of two and portions, and ELQ's penalties."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.methods.incremental import _counts
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')
PORTIONS = (0.5, 0.75, 1.0)


@pytest.mark.parametrize('bits', [2, 3, 5])
def test_powers_of_two_rounds_to_nearest_level(bits):
  w = common.weight(1, (9, 11))
  top = np.floor(np.log2(4 * np.max(np.abs(w)) / 3))
  powers = 2.0 ** (top - np.arange(2 ** (bits - 2)))
  levels = np.array([0.0, *powers, *-powers])
  assert len(levels) == 2 ** (bits - 1) + 1
  w_hat = common.values(methods.powers_of_two(bits), w, ())
  nearest = levels[
    np.argmin(np.abs(np.asarray(w)[..., None] - levels), axis=-1)
  ]
  np.testing.assert_array_equal(w_hat, nearest)
  again = common.values(methods.powers_of_two(bits), jnp.asarray(w_hat), ())
  np.testing.assert_array_equal(again, w_hat)


def test_powers_of_two_wide_range_gives_exact_powers():
  powers = 2.0 ** np.arange(-60, 60, dtype=np.float32)[:, None]
  each = mq_jax.per(methods.powers_of_two(3), axes=0)
  w = jnp.asarray(powers * np.float32([1.5, -1.4]))
  w_hat = common.values(each, w, ())
  np.testing.assert_array_equal(w_hat, powers * [2, -1])


def test_powers_of_two_ties_follow_paper():
  """Tests that |w| in [(a + c)/2, 3c/2) maps to c, for neighbours a < c."""
  w = jnp.array([1.0, 0.75, -0.75, 0.74999, 0.25, -0.25, 0.2499])
  w_hat = common.values(methods.powers_of_two(3), w, ())
  np.testing.assert_array_equal(w_hat, [1, 1, -1, 0.5, 0.5, -0.5, 0])


@pytest.mark.parametrize('bits', [2, 5])
def test_freeze_portions_freezes_largest_weights(bits):
  w, g = common.weight(2, (8, 5)), 0.2 * common.weight(3, (8, 5))
  quantizer = methods.inq(bits)
  refine = optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9))
  post_update = methods.freeze_portions(quantizer, PORTIONS, every=2)
  states = common.linear(
    quantizer, w, g, 7, refine=refine, post_update=post_update
  )
  levels = np.asarray(quantizer.init(w))
  frozen = np.zeros(w.shape, bool)
  for t, (before, after) in enumerate(itertools.pairwise(states)):
    old, new = common.kernel(before), common.kernel(after)
    if t % 2 == 0 and t // 2 < len(PORTIONS):
      count = round(PORTIONS[t // 2] * w.size)
      size = np.where(frozen, np.inf, np.abs(old))
      now = np.zeros(w.shape, bool)
      now.ravel()[np.argsort(-size, axis=None)[:count]] = True
      assert np.all(now[frozen])
      # Weights move to the nearest level. Frozen weights keep all their bits.
      nearest = levels[np.argmin(np.abs(old[..., None] - levels), axis=-1)]
      np.testing.assert_array_equal(new[now & ~frozen], nearest[now & ~frozen])
    np.testing.assert_array_equal(new[frozen], old[frozen])
    if t % 2 == 0 and t // 2 < len(PORTIONS):
      frozen = now
    assert np.all(new[~frozen] != old[~frozen])
  assert frozen.all()
  final = common.kernel(states[-1])
  assert set(np.unique(final)) <= set(np.asarray(levels))
  np.testing.assert_array_equal(
    common.values(quantizer, jnp.asarray(final), levels), final
  )
  # Frozen weights keep the powers of two that belong to the first weights.
  top = np.max(np.abs(final))
  assert np.floor(np.log2(4 * top / 3)) == np.log2(np.max(levels))


def test_freeze_portions_first_delays_freezing():
  """Tests that weights move freely before `first` and then freeze on levels."""
  w, g = common.weight(2, (8, 5)), 0.2 * common.weight(3, (8, 5))
  post_update = methods.freeze_portions(
    methods.inq(3), (1.0,), every=1, first=3
  )
  states = common.linear(methods.inq(3), w, g, 6, post_update=post_update)
  levels = np.asarray(methods.inq(3).init(w))
  for t, state in enumerate(states):
    on_levels = np.isin(common.kernel(state), levels)
    assert on_levels.all() if t > 3 else not on_levels.any()
  np.testing.assert_array_equal(
    common.kernel(states[4]), common.kernel(states[6])
  )
  with pytest.raises(ValueError, match='first=-1 must be at least 0'):
    methods.freeze_portions(methods.inq(3), (1.0,), every=1, first=-1)


def test_freeze_portions_count_of_large_layer_is_exact():
  size = 2**24 + 3
  assert _counts((0.25, 1.0), 4 * size) == [size, 4 * size]


def test_add_elq_penalties_matches_finite_differences():
  """Differentiates a₁ |⟨g, W − Ŵ⟩| + a₂ ‖W − Ŵ‖² with constant g and Ŵ."""
  w, g = common.weight(4, (3, 4)), common.weight(5, (3, 4))
  quantizer = methods.fixed_levels(methods.twn())
  transformation = methods.add_elq_penalties(
    quantizer, perturbation=0.3, approximation=0.7
  )
  variables = transformation.init({'w': w})
  w_hat = common.values(quantizer, w, variables['w'])

  def penalty(w):
    error = w - w_hat
    return 0.3 * abs(np.sum(g * error)) + 0.7 * np.sum(error**2)

  point, step = np.asarray(w), 1e-6
  want = np.zeros(w.shape)
  for index in np.ndindex(w.shape):
    unit = np.zeros(w.shape)
    unit[index] = step
    difference = penalty(point + unit) - penalty(point - unit)
    want[index] = difference / (2 * step)
  new, _ = transformation.update({'w': g}, variables, {'w': w})
  np.testing.assert_allclose(new['w'] - g, want, rtol=1e-6, atol=1e-9)
  # Both penalties are zero on the levels.
  on_levels = {'w': jnp.asarray(w_hat)}
  new, _ = transformation.update({'w': g}, variables, on_levels)
  np.testing.assert_allclose(new['w'], g)


def test_fixed_levels_keeps_levels_of_initial_weights():
  w = common.weight(6)
  quantizer = methods.fixed_levels(methods.twn())
  levels = quantizer.init(w)
  np.testing.assert_array_equal(
    common.values(quantizer, 5 * w, levels)[np.abs(w) > 1],
    (np.sign(w) * np.max(levels))[np.abs(w) > 1],
  )


@pytest.mark.parametrize(
  'portions', [(), (0.5,), (0.5, 0.5, 1), (0.0, 1), (1, 0.5), (0.5, 1.5)]
)
def test_freeze_portions_portions_not_ascending_to_one_raise(portions):
  with pytest.raises(ValueError, match='portions='):
    methods.freeze_portions(methods.inq(), portions, every=1)


def test_inq_invalid_arguments_raise():
  with pytest.raises(ValueError, match='every=0'):
    methods.freeze_portions(methods.inq(), (1.0,), every=0)
  with pytest.raises(ValueError, match='bits=1'):
    methods.inq(1)
