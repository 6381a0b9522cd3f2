"""Tests the values and gradients of quantized activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import activations

pytestmark = pytest.mark.usefixtures('x64')
X = np.array([[-3.0, -1.0, -0.6, -0.2], [0.0, 0.3, 0.9, 1.0], [1.4, 2.0, 5, 9]])


def gradient(function, *arguments):
  """Returns the gradient of the sum of `function` by each argument."""

  def total(*arguments):
    return jnp.sum(function(*arguments))

  places = tuple(range(len(arguments)))
  return jax.grad(total, places)(*(jnp.asarray(a) for a in arguments))


def test_sign_and_bi_real_values_and_gradients_match_papers():
  want = np.where(X >= 0, 1.0, -1.0)
  for function, slope in (
    (activations.sign, (np.abs(X) <= 1).astype(float)),
    (activations.bi_real_sign, np.maximum(2 - 2 * np.abs(X), 0)),
  ):
    np.testing.assert_array_equal(function(jnp.asarray(X)), want)
    np.testing.assert_allclose(gradient(function, X)[0], slope)


def test_bi_real_sign_gradient_integrates_to_jump_of_two():
  x = np.linspace(-2, 2, 40_001)
  (slope,) = gradient(activations.bi_real_sign, x)
  assert np.trapezoid(slope, x) == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_dorefa_activation_matches_formula(bits):
  steps = 2**bits - 1
  function = activations.dorefa_activation(bits)
  want = np.floor(steps * np.clip(X, 0, 1) + 0.5) / steps
  np.testing.assert_allclose(function(jnp.asarray(X)), want)
  np.testing.assert_array_equal(gradient(function, X)[0], (X >= 0) & (X <= 1))


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_absmax_scales_each_token_and_has_slope_one(bits):
  q = 2 ** (bits - 1) - 1
  largest = np.abs(X).max(axis=-1, keepdims=True)
  want = np.floor(X / largest * q + 0.5) * largest / q
  function = activations.absmax(bits)
  np.testing.assert_allclose(function(jnp.asarray(X)), want, rtol=1e-15)
  np.testing.assert_array_equal(gradient(function, X)[0], np.ones_like(X))
  # A token is quantized alone.
  np.testing.assert_array_equal(function(jnp.asarray(X[1:2])), want[1:2])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_absmax_in_a_narrow_dtype_rounds_the_right_levels(dtype):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 64)), dtype)
  x = x.at[0].set(jnp.asarray(np.linspace(1e-7, 3e-7, 64), dtype))
  exact = activations.absmax(8)(x.astype(jnp.float32)).astype(dtype)
  np.testing.assert_array_equal(activations.absmax(8)(x), exact)


def test_absmax_of_zeros_and_of_infinities():
  function = activations.absmax(8)
  np.testing.assert_array_equal(function(jnp.zeros((2, 3))), np.zeros((2, 3)))
  x = jnp.array([np.inf, -np.inf, 2.0, -1.0, np.nan])
  y = np.asarray(function(x[:4]))
  np.testing.assert_allclose(y, [2, -2, 2, -1], atol=0.01)
  assert np.isnan(function(x)).any()


@pytest.mark.parametrize('bits', [1, 2, 3, 4])
def test_hwgq_levels_minimize_error_for_normal_inputs(bits):
  x = np.abs(np.random.default_rng(0).normal(size=400_000))
  function = activations.hwgq(bits)
  y = np.asarray(function(jnp.asarray(x)))
  levels = np.unique(y)
  assert len(levels) == 2**bits - 1
  np.testing.assert_allclose(np.diff(levels), levels[0])
  # At the best step E[x q] = E[q²]: no multiple of q is closer to x.
  assert np.mean(x * y) == pytest.approx(np.mean(y * y), rel=0.01)
  assert not np.any(function(jnp.asarray(-x)))
  # The smallest positive x maps to a positive level.
  assert float(function(jnp.asarray([1e-6]))[0]) == pytest.approx(levels[0])
  np.testing.assert_array_equal(
    gradient(function, X)[0], (X > 0) & (levels[-1] >= X)
  )


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_pact_matches_formula(bits):
  alpha, steps = 1.4, 2**bits - 1
  function = activations.pact(bits)
  clipped = (np.abs(X) - np.abs(X - alpha) + alpha) / 2
  y = np.asarray(function(jnp.asarray(X), jnp.asarray(alpha)))
  want = np.floor(clipped * steps / alpha + 0.5) * alpha / steps
  np.testing.assert_allclose(y, want)
  dx, dalpha = gradient(function, X, alpha)
  np.testing.assert_array_equal(dx, (X >= 0) & (alpha > X))
  assert float(dalpha) == np.sum(alpha <= X)
  dx, dalpha = gradient(function, X, 1e3)  # a ReLU
  np.testing.assert_array_equal(dx, X >= 0)
  assert float(dalpha) == 0


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_lsq_activation_matches_formula(bits):
  step, q_max = 0.41, 2**bits - 1
  function = activations.lsq_activation(bits)
  ratio = X / step
  rounded = np.floor(np.clip(ratio, 0, q_max) + 0.5)
  np.testing.assert_allclose(
    function(jnp.asarray(X), jnp.asarray(step)), rounded * step
  )
  dx, dstep = gradient(function, X, step)
  inside = (ratio > 0) & (ratio < q_max)
  np.testing.assert_array_equal(dx, inside)
  slope = np.where(inside, rounded - ratio, np.where(ratio > 0, q_max, 0))
  assert float(dstep) == pytest.approx(np.sum(slope) / np.sqrt(4 * q_max))


@pytest.mark.parametrize(
  ('function', 'number'),
  [
    (activations.sign, ()),
    (activations.bi_real_sign, ()),
    (activations.dorefa_activation(2), ()),
    (activations.hwgq(2), ()),
    (activations.pact(2), (1.4,)),
    (activations.lsq_activation(2), (0.41,)),
  ],
)
def test_infinite_inputs_count_as_large_ones_and_nan_stays(function, number):
  infinite = np.array([[-np.inf, -0.3, 0.7, np.inf]])
  large = np.array([[-1e30, -0.3, 0.7, 1e30]])
  np.testing.assert_array_equal(
    function(jnp.asarray(infinite), *number),
    function(jnp.asarray(large), *number),
  )
  assert np.all(np.isfinite(function(jnp.asarray(infinite), *number)))
  for found, wanted in zip(
    gradient(function, infinite, *number),
    gradient(function, large, *number),
    strict=True,
  ):
    np.testing.assert_array_equal(found, wanted)
  assert np.all(np.isnan(function(jnp.asarray([[np.nan]]), *number)))


@pytest.mark.parametrize(
  'make',
  [
    activations.dorefa_activation,
    activations.hwgq,
    activations.pact,
    activations.lsq_activation,
  ],
)
@pytest.mark.parametrize('bits', [0, 9, True, 2.0])
def test_activations_invalid_bits_raise(make, bits):
  with pytest.raises(ValueError, match='bits='):
    make(bits)


NARROW = {
  'dorefa': (activations.dorefa_activation(8), ()),
  'hwgq': (activations.hwgq(4), ()),
  'absmax': (activations.absmax(8), ()),
  'pact': (activations.pact(8), (1.0,)),
  'lsq': (activations.lsq_activation(8), (1 / 256,)),
}


@pytest.mark.parametrize('number_dtype', [None, jnp.float32])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('name', NARROW)
def test_narrow_activations_are_those_of_float32(name, dtype, number_dtype):
  """The codes of 8 bits do not fit into the 8 digits of bfloat16."""
  function, numbers = NARROW[name]
  x = jnp.asarray(np.linspace(-0.2, 1.3, 2000).reshape(4, 500), dtype)
  numbers = [jnp.asarray(n, number_dtype or dtype) for n in numbers]
  exact = [a.astype(jnp.float32) for a in (x, *numbers)]
  y = function(x, *numbers)
  assert y.dtype == dtype
  np.testing.assert_array_equal(y, function(*exact).astype(dtype))
  found = gradient(function, x, *numbers)
  for g, wanted, of in zip(
    found, gradient(function, *exact), (x, *numbers), strict=True
  ):
    assert g.dtype == of.dtype
    np.testing.assert_allclose(
      g.astype(jnp.float64), wanted, rtol=2 * jnp.finfo(dtype).eps
    )


def test_lsq_activation_of_many_inputs_trains_its_step_in_float16():
  x = jnp.full((1, 65_536), 0.3, jnp.float16)
  number = jnp.asarray(0.1, jnp.float16)
  slope = jax.grad(
    lambda s: activations.lsq_activation(4)(x, s)[0, 0] * jnp.float16(1)
  )(number)
  ratio = float(x[0, 0]) / float(number)
  want = (np.floor(ratio + 0.5) - ratio) / np.sqrt(65_536 * 15)
  assert float(slope) == pytest.approx(want, rel=0.01, abs=1e-7)


@pytest.mark.parametrize('make', [activations.pact, activations.lsq_activation])
@pytest.mark.parametrize('number', [0.0, -0.1])
def test_trained_number_that_is_not_positive_gives_nan(make, number):
  """A wrong number must not give finite outputs that never train again."""
  x = jnp.array([[-1.0, 0.0, 0.5]])
  assert np.all(np.isnan(make(2)(x, jnp.asarray(number))))
