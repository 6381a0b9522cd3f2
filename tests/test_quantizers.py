"""Tests quantizers against hand-computed numbers and closed forms."""

import fractions

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mq_jax
from mq_jax import methods
from mq_jax.quantizers import projected, quantize

# Few shapes, because JAX compiles every operation for each of them.
WEIGHTS = hnp.arrays(
  np.float32,
  st.sampled_from([(1,), (7,), (3, 3, 2, 5)]),
  elements=st.floats(-3, 3, width=32, allow_subnormal=False),
)
ATANH_HALF = np.arctanh(0.5)


def codes_and_levels(quantizer, w):
  return quantizer.codes(quantizer.preprocess(w, ()), ())


def test_dorefa_2_bits_equals_hand_computed_values():
  # tanh(W) = (0.5, -0.25, 0, 0.1), so W~ = tanh(W) + 1/2, and 3 W~ =
  # (3, 0.75, 1.5, 1.8) rounds to (3, 1, 2, 2), the tie upwards.
  w = jnp.arctanh(jnp.array([0.5, -0.25, 0.0, 0.1]))
  quantizer = mq_jax.dorefa(bits=2)
  np.testing.assert_allclose(
    quantizer.preprocess(w, ()), [1.0, 0.25, 0.5, 0.6], rtol=1e-6
  )
  codes, levels = codes_and_levels(quantizer, w)
  np.testing.assert_array_equal(codes, [3, 1, 2, 2])
  np.testing.assert_allclose(levels, [-1, -1 / 3, 1 / 3, 1], rtol=1e-6)
  np.testing.assert_allclose(
    quantize(quantizer, w, ()), [1, -1 / 3, 1 / 3, 1 / 3], rtol=1e-6
  )


@pytest.mark.parametrize(
  'quantizer',
  [
    *[mq_jax.dorefa(bits) for bits in range(1, 9)],
    *[methods.clipped_uniform(bits, corrected=False) for bits in range(1, 9)],
    *[methods.slb(bits, lambda n: 1.0) for bits in range(1, 5)],
  ],
  ids=str,
)
def test_even_levels_are_the_nearest_float32_numbers(quantizer):
  w = jnp.array([[-1.0], [0.5]])
  if quantizer.parametrized is not None:
    w = quantizer.parametrized(w)
  variables = quantizer.init(w)
  _, levels = quantizer.codes(quantizer.preprocess(w, variables), variables)
  steps = len(levels) - 1
  exact = [fractions.Fraction(2 * k - steps, steps) for k in range(steps + 1)]
  expected = np.array([float(level) for level in exact], np.float32)
  np.testing.assert_array_equal(levels, expected)
  np.testing.assert_array_equal(levels, -levels[::-1])


def test_dorefa_calibrate_equals_printed_equation_4():
  w = jnp.arctanh(jnp.array([0.5, -0.25, 0.0]))
  g = mq_jax.dorefa().calibrate(w, jnp.array([1.0, 2.0, -1.0]), ())
  # (1 - tanh^2) / max|tanh| = (0.75, 0.9375, 1) / 0.5
  np.testing.assert_allclose(g, [1.5, 3.75, -2.0], rtol=1e-6)


def test_dorefa_calibrate_of_large_weight_keeps_precision():
  w = np.array([0, 2, 4, 6, 8], np.float32)
  expected = 1 / np.cosh(np.float64(w)) ** 2 / np.tanh(8)
  out = mq_jax.dorefa(1).calibrate(w, jnp.ones_like(w), ())
  np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize('bits', [1, 2, 3, 8])
def test_dorefa_calibrate_is_twice_derivative_of_preprocess(x64, bits):
  quantizer = mq_jax.dorefa(bits)
  w = jnp.array([0.7, -0.3, 0.0, 1.2])
  derivative = jax.vjp(lambda w: quantizer.preprocess(w, ()), w)[1]
  (slope,) = derivative(jnp.ones(4))
  np.testing.assert_allclose(
    quantizer.calibrate(w, jnp.ones(4), ()), 2 * slope, rtol=1e-12
  )
  # The test omits the largest coordinate because it changes the maximum.
  eps = 1e-6
  for i in range(3):
    step = jnp.zeros(4).at[i].set(eps)
    difference = quantizer.preprocess(w + step, ()) - quantizer.preprocess(
      w - step, ()
    )
    np.testing.assert_allclose(difference[i] / (2 * eps), slope[i], rtol=1e-8)


@hypothesis.given(WEIGHTS, st.integers(1, 8))
@hypothesis.settings(deadline=None, max_examples=40)
def test_dorefa_any_weight_codes_are_nearest_and_monotonic(w, bits):
  quantizer = mq_jax.dorefa(bits)
  codes, levels = codes_and_levels(quantizer, jnp.asarray(w))
  assert levels.shape == (2**bits,)
  assert codes.dtype == jnp.uint8
  assert codes.shape == w.shape
  assert int(codes.max()) < 2**bits
  order = np.argsort(w, axis=None)
  assert np.all(np.diff(np.asarray(codes).ravel()[order].astype(int)) >= 0)
  # No other level is nearer to 2 W~ - 1.
  target = 2 * np.asarray(quantizer.preprocess(jnp.asarray(w), ())) - 1
  distance = np.abs(target - np.asarray(mq_jax.dequantize(codes, levels)))
  assert np.all(distance <= 1 / (2**bits - 1) + 1e-5)


def test_codes_weight_on_threshold_rounds_up():
  w = jnp.array([0.0, 1.0, -1.0, -0.0])
  for quantizer in (mq_jax.dorefa(), mq_jax.bwn()):
    np.testing.assert_array_equal(
      codes_and_levels(quantizer, w)[0], [1, 1, 0, 1]
    )


@pytest.mark.parametrize('bits', range(1, 9))
def test_quantizers_layer_of_zeros_stays_finite(bits):
  w = jnp.zeros((2, 3))
  quantizer = mq_jax.dorefa(bits)
  np.testing.assert_array_equal(
    quantizer.preprocess(w, ()), jnp.full((2, 3), 0.5)
  )
  np.testing.assert_array_equal(quantizer.calibrate(w, w + 2, ()), w + 2)
  assert np.all(np.isfinite(quantize(quantizer, w, ())))
  np.testing.assert_array_equal(quantize(mq_jax.bwn(), w, ()), w)


def test_bwn_small_weight_equals_hand_computed_values():
  w = jnp.array([[0.5, -1.5], [0.0, -2.0]])  # mean |w| = 1
  quantizer = mq_jax.bwn()
  np.testing.assert_array_equal(
    quantize(quantizer, w, ()), [[1.0, -1.0], [1.0, -1.0]]
  )
  g = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  np.testing.assert_array_equal(
    quantizer.straight_through(g, w, ()), [[1.0, 0.0], [3.0, 0.0]]
  )
  np.testing.assert_array_equal(quantizer.calibrate(w, g, ()), g)


def test_bwn_options_change_straight_through_rule():
  w, g = jnp.array([0.2, -0.6, 1.6]), jnp.ones(3)

  def rule(**options):
    return mq_jax.bwn(**options).straight_through(g, w, ())

  np.testing.assert_allclose(rule(), [0.8, 0.8, 0.0], rtol=1e-6)
  np.testing.assert_allclose(rule(clip=0.5), [0.8, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(rule(clip=None), [0.8, 0.8, 0.8], rtol=1e-6)
  np.testing.assert_array_equal(rule(scaled_gradient=False), [1, 1, 0])


@hypothesis.given(WEIGHTS)
@hypothesis.settings(deadline=None, max_examples=25)
def test_bwn_scale_minimises_squared_error(w):
  # mean|w| minimises |w - a sign(w)|^2: the residual is orthogonal to sign(w).
  w_hat = np.asarray(quantize(mq_jax.bwn(), jnp.asarray(w), ()))
  sign = np.where(w >= 0, 1.0, -1.0)
  residual = np.sum((w - w_hat).astype(np.float64) * sign)
  assert abs(residual) <= 1e-5 * (1 + np.abs(w).sum())


def test_dorefa_original_equals_mean_times_sign():
  w, g = jnp.array([0.5, -1.5, 0.0]), jnp.array([1.0, -2.0, 3.0])
  quantizer = mq_jax.dorefa(bits=1, original=True)
  np.testing.assert_array_equal(quantizer.preprocess(w, ()), w)
  np.testing.assert_allclose(
    quantize(quantizer, w, ()), np.array([2, -2, 2]) / 3, rtol=1e-6
  )
  np.testing.assert_array_equal(quantizer.straight_through(g, w, ()), g)
  np.testing.assert_array_equal(quantizer.calibrate(w, g, ()), g)


def test_saturated_marks_weights_outside_active_range():
  dorefa, bwn = mq_jax.dorefa(), mq_jax.bwn()
  w_tilde = jnp.array([0.0, 0.004, 0.5, 0.996, 1.0])
  np.testing.assert_array_equal(
    dorefa.saturated(w_tilde, ()), [True, True, False, True, True]
  )
  np.testing.assert_array_equal(
    bwn.saturated(jnp.array([-1.1, 1.0, 1.1]), ()), [True, False, True]
  )


def test_dorefa_straight_through_clips_at_given_clip_only():
  g, w_tilde = jnp.ones(3), jnp.array([0.0, 0.6, 1.0])
  np.testing.assert_array_equal(
    mq_jax.dorefa().straight_through(g, w_tilde, ()), g
  )
  np.testing.assert_array_equal(
    mq_jax.dorefa(clip=0.5).straight_through(g, w_tilde, ()), [1, 0, 0]
  )


@pytest.mark.parametrize('clip', [0.3, 0.8, None])
@pytest.mark.parametrize('make', [mq_jax.bwn, mq_jax.dorefa])
def test_saturated_weight_has_no_gradient_within_clip(make, clip):
  quantizer = make(clip=clip)
  w_tilde = jnp.array([0.1, 0.31, 0.5, 0.79, 0.81, 0.9])
  g_ste = quantizer.straight_through(jnp.ones(6), w_tilde, ())
  np.testing.assert_array_equal(
    quantizer.saturated(w_tilde, ()), np.asarray(g_ste) == 0
  )


@pytest.mark.parametrize('bits', [0, 9, -1, 1.0, True, '1'])
def test_dorefa_bits_out_of_range_raises(bits):
  with pytest.raises(ValueError, match=f'bits={bits!r}.*1 to 8'):
    mq_jax.dorefa(bits)


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_numpy_integers_of_bits_quantize_equally(bits):
  w = jnp.linspace(-1, 1, 50)
  expected = quantize(mq_jax.dorefa(bits), w, ())
  actual = quantize(mq_jax.dorefa(np.int8(bits)), w, ())
  np.testing.assert_array_equal(actual, expected)


def test_quantizers_invalid_argument_raises():
  with pytest.raises(ValueError, match='clip=-1'):
    mq_jax.dorefa(clip=-1)
  with pytest.raises(ValueError, match='clip=0'):
    mq_jax.bwn(clip=0)
  with pytest.raises(ValueError, match=r'original=True.*bits=2'):
    mq_jax.dorefa(bits=2, original=True)
  with pytest.raises(ValueError, match=r'original=True never clips.*clip=0\.5'):
    mq_jax.dorefa(clip=0.5, original=True)
  mq_jax.dorefa(clip=None, original=True)


def test_projected_quantizer_with_preprocessing_or_state_raises():
  w = jnp.ones((2, 2))
  with pytest.raises(ValueError, match='pre-processes its weights'):
    projected(mq_jax.dorefa(), w)
  with pytest.raises(
    ValueError, match='has variables, but this method keeps none'
  ):
    projected(mq_jax.methods.lsq(2), w)
  for refusing in (
    mq_jax.unquantized,
    mq_jax.methods.fixed_levels,
    lambda q: mq_jax.methods.binary_relax(q, lambda step: 1.0),
    lambda q: projected(q, w),
  ):
    with pytest.raises(ValueError, match='pre-processes its weights'):
      refusing(mq_jax.dorefa())
    with pytest.raises(ValueError, match='trains other numbers than its'):
      refusing(mq_jax.methods.bayes_binn(start=5.0))


def test_quantize_wrong_weight_or_variables_raises():
  for function in (quantize, projected):
    with pytest.raises(TypeError, match=r'dtype int.*convert it'):
      function(mq_jax.bwn(), np.arange(6).reshape(2, 3), ())
  w = jnp.ones((2, 2))
  for quantizer in (
    mq_jax.methods.lsq(2),
    mq_jax.methods.lab(),
    mq_jax.methods.clipped_uniform(2),
    mq_jax.per(mq_jax.methods.ttq(), axes=-1),
  ):
    with pytest.raises(ValueError, match=r'has variables: pass quantizer.init'):
      quantize(quantizer, w, ())
  with pytest.raises(ValueError, match='would have levels of its own'):
    quantize(mq_jax.methods.clipped_uniform(2), w[:1], jnp.ones(()))


@pytest.mark.parametrize(
  'make',
  [
    lambda value: mq_jax.bwn(clip=value),
    lambda value: mq_jax.methods.lab(decay=value),
    lambda value: mq_jax.methods.ttq(threshold=value),
    lambda value: mq_jax.estimators.swish_sign(beta=value),
    lambda value: mq_jax.estimators.ewgs(delta=value),
    lambda value: mq_jax.estimators.reste(9, power=value),
    lambda value: mq_jax.estimators.dsq(alpha=value),
    lambda value: mq_jax.estimators.feature_fc(steps=9, decay=value),
  ],
)
@pytest.mark.parametrize('value', ['0.5', [0.5], None.__class__])
def test_option_that_is_no_number_raises(make, value):
  with pytest.raises(TypeError, match='must be a number'):
    make(value)
