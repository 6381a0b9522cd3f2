"""Tests every quantizer and estimator with float16 and bfloat16 weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.quantizers import at_start, forward_weight
from tests.test_interfaces import ESTIMATORS, QUANTIZERS

NARROW = [jnp.float16, jnp.bfloat16]
SHAPE = (10, 25, 4)
# The default bits of these quantizers hide sums that overflow, and ties.
MORE = {
  'dorefa8': lambda: mq_jax.dorefa(8),
  'bwn_per_channel': lambda: mq_jax.per(mq_jax.bwn(), axes=-1),
  'lsq8': lambda: methods.lsq(8),
  'ternary_levels': lambda: methods.scaled_levels((-1, 0, 1)),
  'twn_two_scales': lambda: methods.twn(two_scales=True),
}
QUANTIZERS = QUANTIZERS | MORE


def weights(dtype):
  """Returns weights whose sum, and gradients whose squares, float16 lacks."""
  rng = np.random.default_rng(0)
  w = jnp.asarray(300 * rng.normal(size=SHAPE), dtype)
  g = [jnp.asarray(1e-4 * rng.normal(size=SHAPE), dtype) for _ in range(2)]
  return w, g


@functools.cache
def trained(name, narrow, dtype):
  """Returns codes, levels and the last gradient after two updates.

  The weights are exact in the dtype `narrow`; `dtype` is that of the
  arithmetic.
  """
  q = QUANTIZERS[name]()
  w, gradients = jax.tree.map(lambda x: x.astype(dtype), weights(narrow))
  theta, variables = at_start(q, w)
  for g_hat in gradients:
    w_tilde = q.preprocess(theta, variables)
    w_hat = forward_weight(q, w_tilde, variables)
    g_ste = q.straight_through(g_hat, w_tilde, variables)
    g = q.calibrate(theta, g_ste, variables)
    assert w_hat.dtype == g_ste.dtype == g.dtype == dtype
    new = q.update(variables, w_tilde, w_hat, g_hat)
    assert jax.eval_shape(lambda v: v, new) == jax.eval_shape(
      lambda v: v, variables
    )
    variables = new
  codes, levels = q.codes(q.preprocess(theta, variables), variables)
  assert levels.dtype == dtype
  return [np.asarray(x, np.float64) for x in (codes, levels, g)]


@pytest.mark.parametrize('dtype', NARROW)
@pytest.mark.parametrize('name', sorted(QUANTIZERS))
def test_quantizer_narrow_dtype_matches_float32(name, dtype):
  codes, levels, g = trained(name, dtype, dtype)
  true_codes, true_levels, true_g = trained(name, dtype, jnp.float32)
  ulp = float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(
    levels, true_levels, atol=2 * ulp * np.max(np.abs(true_levels))
  )
  # W̃ of dorefa and θ of slb are rounded, which moves weights near a threshold.
  assert np.mean(codes != true_codes) < 0.005
  assert np.max(np.abs(codes - true_codes)) <= 1
  # A gradient of libra is so small that float16 has few values near it.
  spacing = float(jnp.finfo(dtype).smallest_subnormal)
  np.testing.assert_allclose(
    g, true_g, atol=0.01 * np.max(np.abs(true_g)) + spacing
  )


@pytest.mark.parametrize('dtype', NARROW)
@pytest.mark.parametrize('name', sorted(ESTIMATORS))
def test_step_narrow_dtype_keeps_dtypes_of_state(name, dtype):
  shape = (3, 3, 2, 4)

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(params['a']['kernel'] * batch), (model_state, {})

  train = mq_jax.make_train_step(
    loss_fn, mq_jax.dorefa(2), ESTIMATORS[name](), learning_rate=0.1
  )
  params = {'a': {'kernel': jnp.ones(shape, dtype) / 2}}
  batch = jnp.ones(shape, dtype)
  before = jax.eval_shape(train.init, jax.random.key(0), params, {}, batch)
  after, _ = jax.eval_shape(train.step_fn, before, batch)
  assert after == before
