"""INQ's ladder and portions, ELQ's penalties."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')
PORTIONS = (0.5, 0.75, 1.0)


@pytest.mark.parametrize('bits', [2, 3, 5])
def test_the_ladder(bits):
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


def test_the_rule_of_the_paper():
  """(a + c)/2 ≤ |w| < 3c/2 takes c, of neighbours a < c; else 0."""
  w = jnp.array([1.0, 0.75, -0.75, 0.74999, 0.25, -0.25, 0.2499])
  w_hat = common.values(methods.powers_of_two(3), w, ())
  np.testing.assert_array_equal(w_hat, [1, 1, -1, 0.5, 0.5, -0.5, 0])


@pytest.mark.parametrize('bits', [2, 5])
def test_portions(bits):
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
    own, new = common.kernel(before), common.kernel(after)
    if t % 2 == 0 and t // 2 < len(PORTIONS):
      count = round(PORTIONS[t // 2] * w.size)
      size = np.where(frozen, np.inf, np.abs(own))
      now = np.zeros(w.shape, bool)
      now.ravel()[np.argsort(-size, axis=None)[:count]] = True
      assert np.all(now[frozen])
      # Onto the nearest level, and those already there not by a bit.
      nearest = levels[np.argmin(np.abs(own[..., None] - levels), axis=-1)]
      np.testing.assert_array_equal(new[now & ~frozen], nearest[now & ~frozen])
    np.testing.assert_array_equal(new[frozen], own[frozen])
    if t % 2 == 0 and t // 2 < len(PORTIONS):
      frozen = now
    assert np.all(new[~frozen] != own[~frozen])
  assert frozen.all()
  final = common.kernel(states[-1])
  assert set(np.unique(final)) <= set(np.asarray(levels))
  np.testing.assert_array_equal(
    common.values(quantizer, jnp.asarray(final), levels), final
  )
  # What is frozen has the ladder that the first weights had.
  top = np.max(np.abs(final))
  assert np.floor(np.log2(4 * top / 3)) == np.log2(np.max(levels))


def test_portions_may_begin_later():
  """Until then weights move freely; then all are on levels, and stay."""
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


def test_penalties_by_finite_differences():
  """Of a₁ |⟨g, W − Ŵ⟩| + a₂ ‖W − Ŵ‖², g and Ŵ constants."""
  w, g = common.weight(4, (3, 4)), common.weight(5, (3, 4))
  quantizer = methods.fixed_levels(methods.twn())
  transformation = methods.loss_error_aware(quantizer, 0.3, 0.7)
  variables = transformation.init({'w': w})
  w_hat = common.values(quantizer, w, variables['w'])

  def penalty(w):
    error = w - w_hat
    return 0.3 * abs(np.sum(g * error)) + 0.7 * np.sum(error**2)

  own, step = np.asarray(w), 1e-6
  want = np.zeros(w.shape)
  for index in np.ndindex(w.shape):
    unit = np.zeros(w.shape)
    unit[index] = step
    want[index] = (penalty(own + unit) - penalty(own - unit)) / (2 * step)
  new, _ = transformation.update({'w': g}, variables, {'w': w})
  np.testing.assert_allclose(new['w'] - g, want, rtol=1e-6, atol=1e-9)
  # On the levels there is nothing to mend.
  there = {'w': jnp.asarray(w_hat)}
  new, _ = transformation.update({'w': g}, variables, there)
  np.testing.assert_allclose(new['w'], g)


def test_levels_of_the_first_weights():
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
def test_portions_that_do_not_ascend_to_all_are_refused(portions):
  with pytest.raises(ValueError, match='portions='):
    methods.freeze_portions(methods.inq(), portions, 1)


def test_other_arguments_out_of_range_are_refused():
  with pytest.raises(ValueError, match='every=0'):
    methods.freeze_portions(methods.inq(), (1.0,), 0)
  with pytest.raises(ValueError, match='bits=1'):
    methods.inq(1)
