"""Tests balanced levels, SEQ and absmean, against their equations."""

import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import methods
from mq_jax.quantizers import forward_weight
from tests.methods import common

QUANTIZERS = {
  'seq3': lambda: methods.seq(levels=3),
  'seq4': lambda: methods.seq(levels=4),
  'absmean': methods.absmean,
  'absmean_small': lambda: methods.absmean(scale=0.5),
}


def seq(w, levels):
  alpha = np.max(np.abs(w))
  n, s = levels / 2, 0.5 if levels == 4 else 0.0
  ratio = np.clip(w / alpha, -1 + 1e-12, 1 - 1e-12)
  return alpha * (np.floor(ratio * n - s + 0.5) + s) / n


def absmean(w, scale=1.0):
  alpha = scale * np.mean(np.abs(w))
  return alpha * np.floor(np.clip(w / alpha, -1, 1) + 0.5)


ORACLES = {
  'seq3': lambda w: seq(w, 3),
  'seq4': lambda w: seq(w, 4),
  'absmean': absmean,
  'absmean_small': lambda w: absmean(w, 0.5),
}


@pytest.mark.parametrize('name', QUANTIZERS)
@pytest.mark.parametrize('size', [1e-8, 1.0, 1e5])
@pytest.mark.parametrize('seed', [1, 2, 3])
def test_balanced_matches_oracle(x64, name, size, seed):
  w = size * common.weight(seed, (9, 11))
  g = common.weight(seed + 10, (9, 11))
  quantizer = QUANTIZERS[name]()
  variables = quantizer.init(w)
  np.testing.assert_array_equal(quantizer.preprocess(w, variables), w)
  w_hat = common.values(quantizer, w, variables)
  np.testing.assert_allclose(w_hat, ORACLES[name](np.asarray(w)), rtol=1e-14)
  assert len(np.unique(w_hat)) == (4 if name == 'seq4' else 3)
  np.testing.assert_array_equal(quantizer.straight_through(g, w, variables), g)
  np.testing.assert_array_equal(quantizer.calibrate(w, g, variables), g)


@pytest.mark.parametrize('name', QUANTIZERS)
def test_balanced_rounds_unrounded_to_nearest_level(x64, name):
  w, quantizer = common.weight(4, (9, 11)), QUANTIZERS[name]()
  value = np.asarray(quantizer.unrounded(w, quantizer.init(w)))
  codes, levels = map(np.asarray, quantizer.codes(w, quantizer.init(w)))
  assert np.all(np.diff(levels) > 0)
  nearest = np.argmin(np.abs(value[..., None] - levels), axis=-1)
  np.testing.assert_array_equal(codes, nearest)


@pytest.mark.parametrize(
  ('levels', 'w', 'w_hat'),
  [
    (4, [-1, -0.51, -0.49, -0.01, 0.01, 0.49, 0.51, 1], [-3, -3, -1, -1]),
    (3, [-1, -0.34, -0.32, -0.01, 0.01, 0.32, 0.34, 1], [-8, -8, 0, 0]),
  ],
)
def test_seq_levels_and_thresholds(x64, levels, w, w_hat):
  half = np.array(w_hat) / (4 if levels == 4 else 12)
  expected = np.concatenate([half, -half[::-1]])
  for alpha in (1.0, 0.37):
    result = common.values(methods.seq(levels), alpha * jnp.array(w), ())
    np.testing.assert_allclose(result, alpha * expected, rtol=1e-14)


def test_seq_has_four_levels_by_default(x64):
  w = common.weight(5, (9, 11))
  assert len(np.unique(common.values(methods.seq(), w, ()))) == 4


def test_balanced_halves_round_upwards(x64):
  w = jnp.array([0.5, -0.5, 0.0, 1.0, -1.0])
  w_hat = common.values(methods.seq(4), w, ())
  np.testing.assert_array_equal(w_hat, [0.75, -0.25, 0.25, 0.75, -0.75])
  w = jnp.array([0.5, -0.5, 2.0, -1.0])
  w_hat = common.values(methods.absmean(), w, ())
  np.testing.assert_array_equal(w_hat, [1, 0, 1, -1])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('levels', [3, 4])
def test_seq_largest_weights_have_outer_levels(dtype, levels):
  """Tests that the clip to less than ±1 is not lost in a narrow dtype."""
  outer = 2 / 3 if levels == 3 else 3 / 4
  for alpha in (1.0, 0.3, 77.0):
    w = jnp.asarray([alpha, -alpha, 0.9 * alpha, -0.9 * alpha], dtype)
    w_hat = common.values(methods.seq(levels), w, ())
    expected = float(w[0]) * outer * np.array([1, -1, 1, -1])
    np.testing.assert_allclose(
      w_hat.astype(np.float64), expected, rtol=2 * float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize('name', ['seq3', 'seq4', 'absmean'])
def test_balanced_levels_have_exact_opposites(name):
  """Tests float32, in which other sums of the levels bias a layer."""
  for alpha in (1.0, 0.37):
    w = alpha * jnp.array([1.0, -0.7, 0.3])
    levels = np.asarray(QUANTIZERS[name]().codes(w, ())[1])
    np.testing.assert_array_equal(levels, -levels[::-1])


@pytest.mark.parametrize('name', QUANTIZERS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('size', [0.0, 1.0, 300.0])
def test_balanced_narrow_dtype_is_kept_and_finite(name, dtype, size):
  quantizer = QUANTIZERS[name]()
  w = jnp.asarray(size * common.weight(6), dtype)
  w_hat = forward_weight(quantizer, w, quantizer.init(w))
  assert w_hat.dtype == dtype
  assert np.all(np.isfinite(np.asarray(w_hat, np.float64)))
  if size:
    # The float32 weights are exact in float64, so only the levels are rounded.
    expected = ORACLES[name](np.asarray(w, np.float64))
    np.testing.assert_allclose(
      np.asarray(w_hat, np.float64),
      expected,
      rtol=4 * float(jnp.finfo(dtype).eps),
    )


@pytest.mark.parametrize('levels', [2, 5, 8, True])
def test_seq_invalid_levels_raise(levels):
  with pytest.raises(ValueError, match='levels='):
    methods.seq(levels)


@pytest.mark.parametrize('scale', [0, -1.0])
def test_absmean_invalid_scale_raises(scale):
  with pytest.raises(ValueError, match='scale='):
    methods.absmean(scale=scale)


@pytest.mark.parametrize('name', QUANTIZERS)
def test_balanced_training_stays_finite(name):
  common.check_training_stays_finite(QUANTIZERS[name]())
