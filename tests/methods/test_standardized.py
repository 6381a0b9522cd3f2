"""Tests Libra-PB and ReCU against the equations of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.quantizers import forward_weight
from tests.methods import common

STEPS = 10
QUANTIZERS = {
  'libra': methods.libra,
  'recu': lambda: methods.recu(STEPS),
  'libra_per_channel': lambda: mq_jax.per(methods.libra(), axes=-1),
}


def libra_tilde(w):
  return (w - w.mean()) / w.std(ddof=1)


def libra_scale(w_tilde):
  return 2 ** np.floor(np.log2(np.mean(np.abs(w_tilde))) + 0.5)


def recu_x(w):
  sigma = np.sqrt(w.var(ddof=1) + 1e-5)
  return (w - w.mean()) / (sigma / (2 * np.sqrt(2)))


def recu_bound(w, updates, start=0.85, end=0.99):
  p = min(updates / STEPS, 1)
  tau = start + (end - start) * (np.exp(p) - 1) / (np.e - 1)
  return -np.mean(np.abs(recu_x(w))) * np.log(2 - 2 * tau)


def sign(x):
  return np.where(x >= 0, 1.0, -1.0)


def derivative(f, w, delta=1e-6):
  """Returns the gradient of the scalar f(w) by central differences."""
  w = np.array(w)
  g = np.zeros_like(w)
  for index in np.ndindex(*w.shape):
    step = np.zeros_like(w)
    step[index] = delta
    g[index] = (f(w + step) - f(w - step)) / (2 * delta)
  return g


@pytest.mark.parametrize('size', [1e-6, 1.0, 1e4])
def test_libra_matches_oracle(x64, size):
  w, g = size * common.weight(1, (5, 7)) + 0.3 * size, common.weight(2, (5, 7))
  quantizer = methods.libra()
  w_tilde = quantizer.preprocess(w, ())
  oracle = libra_tilde(np.asarray(w))
  np.testing.assert_allclose(w_tilde, oracle, rtol=1e-11, atol=1e-13)
  scale = libra_scale(oracle)
  w_hat = common.values(quantizer, w, ())
  np.testing.assert_array_equal(w_hat, scale * sign(oracle))
  np.testing.assert_allclose(
    quantizer.straight_through(g, w_tilde, ()), scale * np.asarray(g)
  )
  expected = derivative(
    lambda x: np.sum(np.asarray(g) * libra_tilde(x)), w, 1e-6 * size
  )
  np.testing.assert_allclose(
    quantizer.calibrate(w, g, ()), expected, rtol=1e-6, atol=1e-8 / size
  )


@pytest.mark.parametrize('size', [1.0, 0.7, 1.5, 0.1, 9.0])
def test_libra_scale_is_nearest_power_of_two(x64, size):
  """Tests `codes` alone, whose input needs no standard deviation of 1."""
  w_tilde = size * common.weight(3)
  codes, levels = methods.libra().codes(w_tilde, ())
  scale = libra_scale(np.asarray(w_tilde))
  np.testing.assert_array_equal(levels, [-scale, scale])
  np.testing.assert_array_equal(codes, np.asarray(w_tilde) >= 0)


@pytest.mark.parametrize('value', [0.0, 0.5, -4.0, 0.1, 1e-30])
def test_libra_constant_layer_is_zero_and_finite(value):
  shape, quantizer = (3, 7), methods.libra()
  for dtype in (jnp.float32, jnp.bfloat16):
    w = jnp.full(shape, value, dtype)
    w_tilde = quantizer.preprocess(w, ())
    w_hat = common.values(quantizer, w, ())
    g_ste = quantizer.straight_through(jnp.ones(shape, dtype), w_tilde, ())
    g = quantizer.calibrate(w, g_ste, ())
    for array in (w_hat, g_ste, g):
      assert np.all(np.isfinite(np.asarray(array, np.float64)))
    np.testing.assert_array_equal(w_tilde.astype(jnp.float32), np.zeros(shape))


def test_libra_per_channel_is_libra_of_each_channel(x64):
  w, g = common.weight(4, (6, 5)), common.weight(5, (6, 5))
  w = w * jnp.array([[0.1, 1.0, 3.0, 50.0, 1e-3]])
  each = QUANTIZERS['libra_per_channel']()
  w_tilde = each.preprocess(w, each.init(w))
  w_hat = common.values(each, w, each.init(w))
  g_ste = each.straight_through(g, w_tilde, each.init(w))
  g_w = each.calibrate(w, g, each.init(w))
  for channel in range(5):
    x, y = np.asarray(w)[:, channel], np.asarray(g)[:, channel]
    oracle = libra_tilde(x)
    scale = libra_scale(oracle)
    np.testing.assert_allclose(w_tilde[:, channel], oracle, atol=1e-13)
    np.testing.assert_array_equal(w_hat[:, channel], scale * sign(oracle))
    np.testing.assert_allclose(g_ste[:, channel], scale * y)
    expected = derivative(
      lambda v, y=y: np.sum(y * libra_tilde(v)), x, 1e-6 * np.std(x)
    )
    np.testing.assert_allclose(g_w[:, channel], expected, rtol=1e-6)


@pytest.mark.parametrize('updates', [0, 1, 4, STEPS, STEPS + 7])
@pytest.mark.parametrize('options', [{}, {'start': 0.6, 'end': 0.9}])
def test_recu_matches_oracle(x64, updates, options):
  w, g = 0.4 * common.weight(6, (8, 9)) ** 3 + 0.1, common.weight(7, (8, 9))
  quantizer = methods.recu(STEPS, **options)
  variables = quantizer.init(w)
  for _ in range(updates):
    variables = quantizer.update(variables, w, w, g)
  (count,) = jax.tree.leaves(variables)
  assert (int(count), count.dtype) == (updates, jnp.int32)
  q = recu_bound(np.asarray(w), updates, **options)
  oracle = np.clip(recu_x(np.asarray(w)), -q, q)
  is_clipped = np.abs(oracle) == q
  assert 0 < np.sum(is_clipped) < w.size
  w_tilde = quantizer.preprocess(w, variables)
  # The library computes τ in float32.
  np.testing.assert_allclose(w_tilde, oracle, rtol=1e-6)
  np.testing.assert_allclose(
    w_tilde[~is_clipped], oracle[~is_clipped], rtol=1e-11
  )
  scale = np.mean(np.abs(w_tilde))
  w_hat = common.values(quantizer, w, variables)
  np.testing.assert_allclose(w_hat, scale * sign(oracle), rtol=1e-12)
  g_ste = quantizer.straight_through(g, w_tilde, variables)
  np.testing.assert_allclose(g_ste, scale * np.asarray(g), rtol=1e-12)
  expected = derivative(
    lambda x: np.sum(np.asarray(g) * np.clip(recu_x(x), -q, q)), w
  )
  np.testing.assert_allclose(
    quantizer.calibrate(w, g, variables), expected, rtol=1e-6, atol=1e-7
  )


@pytest.mark.parametrize(
  'options', [{'steps': 0}, {'start': 0.4}, {'end': 1.0}]
)
def test_recu_invalid_options_raise(options):
  (name,) = options
  with pytest.raises(ValueError, match=f'{name}='):
    methods.recu(**({'steps': STEPS} | options))


@pytest.mark.parametrize('name', QUANTIZERS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('size', [0.0, 1.0, 300.0])
def test_standardized_narrow_dtype_is_kept_and_finite(name, dtype, size):
  quantizer = QUANTIZERS[name]()
  w = jnp.asarray(size * common.weight(8), dtype)
  variables = quantizer.init(w)
  w_tilde = quantizer.preprocess(w, variables)
  w_hat = forward_weight(quantizer, w_tilde, variables)
  g_ste = quantizer.straight_through(w, w_tilde, variables)
  g = quantizer.calibrate(w, g_ste, variables)
  for array in (w_tilde, w_hat, g_ste, g):
    assert array.dtype == dtype
    assert np.all(np.isfinite(np.asarray(array, np.float64)))
  assert size == 0 or np.all(np.asarray(w_hat, np.float64) != 0)


@pytest.mark.parametrize('name', QUANTIZERS)
def test_standardized_training_stays_finite(name):
  common.check_training_stays_finite(QUANTIZERS[name]())
