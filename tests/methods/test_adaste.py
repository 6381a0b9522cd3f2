"""Tests AdaSTE with a growing β against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import estimators, methods
from mq_jax.quantizers import at_start
from tests.methods import common

# α = 0.01, so the forward pass is the sign from β = 100 on.
BETAS = [0.01, 0.7, 20.0, 99.0]
SPECIAL = [0.0, 1e-7, 1e-3, 0.01, 0.02, 0.3, 0.993, 1.0, 1.5, 10.0, 40.0]
THETA = np.array([*SPECIAL, *(-x for x in SPECIAL)] * 2)
G = np.repeat([0.3, -0.3], len(SPECIAL) * 2)


def make(beta, **options):
  return methods.annealed_adaste(lambda updates: beta, **options)


def slope(quantizer, theta, g):
  variables = quantizer.init(theta)
  return np.asarray(quantizer.straight_through(g, theta, variables) / g)


def smooth(theta, beta, alpha=0.01):
  """Returns s(θ): the minimum of ½(w − θ)² + ½β(1 + α − |w|)², |w| ≤ 1."""
  grid = np.linspace(-1, 1, 200_001)
  cost = (grid - theta) ** 2 + beta * (1 + alpha - np.abs(grid)) ** 2
  return grid[np.argmin(cost)]


@pytest.mark.parametrize('beta', BETAS)
def test_relaxed_weight_minimizes_the_double_well(x64, beta):
  quantizer, theta = make(beta), common.weight(0, (25,))
  value = quantizer.relaxed(theta, quantizer.init(theta))
  expected = [smooth(x, beta) for x in np.asarray(theta)]
  # The grid has steps of 1e-5.
  np.testing.assert_allclose(value, expected, atol=1e-5)


@pytest.mark.parametrize('beta', BETAS)
def test_slope_is_that_of_a_line_through_the_relaxed_weight(x64, beta):
  """Towards the threshold up to its other side, away from it at the weight."""
  quantizer = make(beta, largest=1e9)
  variables = quantizer.init(THETA)
  value = quantizer.relaxed(THETA, variables)
  behind = quantizer.relaxed(-1e-12 * np.sign(THETA), variables)
  towards = THETA * G > 0
  line = (value - behind) / np.where(THETA == 0, 1, THETA)
  ahead = quantizer.relaxed(THETA + 1e-6 * np.sign(THETA), variables)
  tangent = np.abs(ahead - value) / 1e-6
  near = np.abs(THETA) <= 1e-6
  expected = np.where(towards, line, tangent)
  expected = np.where(near, 1 / (1 + beta), expected)
  np.testing.assert_allclose(
    slope(quantizer, THETA, G), expected, rtol=1e-8, atol=1e-8
  )
  bounded = np.where(towards & ~near, np.minimum(expected, 0.5), expected)
  np.testing.assert_allclose(
    slope(make(beta), THETA, G), bounded, rtol=1e-8, atol=1e-8
  )


def test_slope_by_hand(x64):
  """With β = 1, s(0.5) = 0.755, s(10) = 1 and s(0⁺) = 0.505."""
  theta = jnp.asarray([0.5, 10.0, 0.5, 10.0, 10.0, 0.5])
  g = jnp.asarray([0.1, 0.1, -0.1, -0.1, 1e-3, -1e-3])
  expected = [2.52, 0.1505, 0.5, 0.0, 0.5, 0.5]
  quantizer = make(1.0, largest=10.0)
  for sign in (1, -1):
    actual = slope(quantizer, sign * theta, sign * g)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize('beta', [100.0, 200.0])
def test_slopes_of_a_large_beta_are_those_of_the_estimator(x64, beta):
  quantizer = make(beta)
  variables = quantizer.init(THETA)
  np.testing.assert_array_equal(
    quantizer.relaxed(THETA, variables), np.where(THETA >= 0, 1, -1)
  )
  signals = mq_jax.Signals(
    *({'w': array} for array in (G, G, THETA, THETA, THETA)),
    cell={'w': np.full_like(THETA, 2)},
    step=0,
  )
  expected, _ = estimators.adaste().apply((), signals, ())
  np.testing.assert_allclose(slope(quantizer, THETA, G) * G, expected['w'])


def test_one_step_of_training_uses_the_relaxed_weight(x64):
  """Trains on the loss Σ c w²/2, whose gradient is c s(θ); β grows."""
  w, c = common.weight(8), common.weight(9)
  betas = [0.5, 5.0, 50.0, 500.0]
  quantizer = methods.annealed_adaste(
    lambda updates: jnp.asarray(betas)[updates], start=2.0
  )

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(batch * params['w'] ** 2) / 2, (model_state, {})

  ste = mq_jax.ste()
  train = mq_jax.make_train_step(loss_fn, quantizer, ste, learning_rate=2)
  state = train.init(jax.random.key(0), {'w': w}, {}, c)
  theta = np.asarray(2 * w / jnp.mean(jnp.abs(w)))
  np.testing.assert_allclose(state.params['w'], theta, rtol=1e-14)
  for beta in betas:
    fixed = make(beta)
    value = np.asarray(fixed.relaxed(jnp.asarray(theta), jnp.zeros(())))
    np.testing.assert_allclose(train.forward_params(state)['w'], value)
    g = np.asarray(c) * value
    theta = theta - 2 * g * slope(fixed, jnp.asarray(theta), jnp.asarray(g))
    state, _ = train.step(state, c)
    np.testing.assert_allclose(state.params['w'], theta, rtol=1e-10)
    final = np.where(theta >= 0, 1, -1)
    np.testing.assert_array_equal(train.quantized(state)['w'], final)
  assert np.any(final != np.where(np.asarray(w) >= 0, 1, -1))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('beta', [1e-9, 0.5, 1e9])
@pytest.mark.parametrize('size', [0.0, 1.0, 50.0])
def test_narrow_dtype_is_kept_and_finite(dtype, beta, size):
  quantizer = make(beta)
  w = jnp.asarray(size * common.weight(11), dtype)
  theta, variables = at_start(quantizer, w)
  g_ste = quantizer.straight_through(jnp.ones_like(w), theta, variables)
  for array in (quantizer.relaxed(theta, variables), g_ste):
    assert array.dtype == dtype
    assert np.all(np.isfinite(np.asarray(array, np.float64)))


def test_training_stays_finite():
  common.check_training_stays_finite(make(1.0, start=2.0))


@pytest.mark.parametrize(
  ('options', 'error', 'message'),
  [
    ({'beta': 3.0}, TypeError, 'beta=3.0 must be a function'),
    ({'alpha': 0}, ValueError, 'alpha=0'),
    ({'start': -1.0}, ValueError, 'start=-1.0'),
    ({'largest': -1}, ValueError, 'largest=-1'),
    ({'margin': np.nan}, ValueError, 'margin=nan'),
    ({'least_gradient': np.inf}, ValueError, 'least_gradient=inf'),
  ],
)
def test_invalid_argument_raises(options, error, message):
  arguments = {'beta': lambda updates: 1.0} | options
  with pytest.raises(error, match=message):
    methods.annealed_adaste(**arguments)
