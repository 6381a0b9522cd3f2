"""Tests ADMM: the projection, the dual variable, and a quadratic loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')
SETS = [(-1, 1), (-1, 0, 1), (-2, -1, 0, 1, 2), (-4, -2, -1, 0, 1, 2, 4)]


@pytest.mark.parametrize('values', SETS)
def test_scaled_levels_error_never_rises_with_iterations(values):
  w = common.weight(1, (6, 7))
  errors = []
  for iterations in (1, 2, 4, 8):
    w_hat = common.values(
      methods.scaled_levels(values, iterations=iterations), w, ()
    )
    # The scale is the ratio of the largest level to the largest value in use.
    scales = [np.max(np.abs(w_hat)) / v for v in values if v > 0]
    assert any(
      set(np.round(np.unique(w_hat) / s, 9)) <= set(values) for s in scales
    )
    errors.append(np.sum((w - w_hat) ** 2))
  assert np.all(np.diff(errors) <= 1e-12)


def test_scaled_levels_binary_equals_bwn_and_ternary_beats_grid():
  w = common.weight(2, (6, 7))
  np.testing.assert_allclose(
    common.values(methods.scaled_levels((-1, 1)), w, ()),
    common.values(mq_jax.bwn(), w, ()),
  )
  w_hat = common.values(methods.scaled_levels((-1, 0, 1), iterations=50), w, ())
  best = min(
    np.sum((w - a * np.clip(np.round(w / a), -1, 1)) ** 2)
    for a in np.linspace(0.05, 3, 2000)
  )
  assert np.sum((w - w_hat) ** 2) <= best * 1.02  # a local minimum
  assert not np.any(
    common.values(methods.scaled_levels((-1, 0, 1)), jnp.zeros((2, 2)), ())
  )


def test_admm_in_training_matches_oracle():
  w, g = common.weight(3), common.weight(4)
  quantizer = mq_jax.unquantized(methods.scaled_levels((-1, 0, 1)))
  refine = methods.admm(quantizer, rho=0.5, every=2)
  states = common.linear(quantizer, w, g, 5, refine=refine)

  def project(x):
    return common.values(quantizer, jnp.asarray(x), ())

  projected, dual = project(w), np.zeros(w.shape)
  for t, (before, after) in enumerate(itertools.pairwise(states)):
    weights = common.kernel(before)
    if t and t % 2 == 0:
      total = weights + dual
      projected = project(total)
      dual = total - projected
    np.testing.assert_allclose(
      common.kernel(after),
      weights - 0.1 * (g + 0.5 * (weights - projected + dual)),
      rtol=1e-12,
    )


def test_admm_without_penalty_equals_plain_training():
  w, g = common.weight(5), common.weight(6)
  quantizer = mq_jax.unquantized(methods.scaled_levels((-1, 0, 1)))
  refine = methods.admm(quantizer, rho=0.0, every=1)
  last = common.linear(quantizer, w, g, 3, refine=refine)[-1]
  np.testing.assert_allclose(common.kernel(last), w - 0.3 * g)


def test_admm_quadratic_loss_converges_to_levels_and_dual_to_gradient():
  """Minimises ½ ‖W − c‖² on the levels: W − G → 0, and ρL = −∂f = c − W."""
  c = common.weight(7)
  quantizer = mq_jax.unquantized(methods.scaled_levels((-1, 1)))
  transformation = methods.admm(quantizer, rho=2.0, every=20)
  params = {'w': c}
  state = transformation.init(params)

  @jax.jit
  def step(params, state):
    grads = {'w': params['w'] - c}
    new, state = transformation.update(grads, state, params)
    return {'w': params['w'] - 0.1 * new['w']}, state

  for _ in range(4000):
    params, state = step(params, state)
  w = np.asarray(params['w'])
  np.testing.assert_allclose(w, state.projected['w'], atol=1e-6)
  np.testing.assert_allclose(2 * state.dual['w'], c - w, atol=1e-5)


@pytest.mark.parametrize('values', [(1,), (1, -1), (-1, 2), (-1, -1, 1)])
def test_scaled_levels_invalid_values_raise(values):
  with pytest.raises(ValueError, match='values='):
    methods.scaled_levels(values)


def test_admm_invalid_arguments_raise():
  quantizer = methods.scaled_levels((-1, 1))
  with pytest.raises(ValueError, match='rho=-1'):
    methods.admm(quantizer, rho=-1)
  with pytest.raises(ValueError, match='every=0'):
    methods.admm(quantizer, every=0)
  with pytest.raises(ValueError, match='iterations=0'):
    methods.scaled_levels((-1, 1), iterations=0)


def test_scaled_levels_numpy_integer_equals_python_integer():
  w = common.weight(3, (6, 7))
  np.testing.assert_array_equal(
    common.values(
      methods.scaled_levels((-1, 0, 1), iterations=np.int64(2)), w, ()
    ),
    common.values(methods.scaled_levels((-1, 0, 1), iterations=2), w, ()),
  )


@pytest.mark.parametrize('iterations', [2.0, np.float64(2), True, np.True_])
def test_scaled_levels_no_integer_raises(iterations):
  with pytest.raises(ValueError, match='must be a positive integer'):
    methods.scaled_levels((-1, 1), iterations=iterations)
