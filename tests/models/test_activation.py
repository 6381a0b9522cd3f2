"""Tests `QuantizedInput`: its trained number and its dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import activations, models
from mq_jax.activations import Activation

X = np.array([[-2.0, -0.3, 0.1, 0.4], [0.6, 0.9, 1.2, 7.0]], np.float32)


def init(layer, x=X):
  return layer.init(jax.random.key(0), jnp.asarray(x))


def test_quantized_input_without_trained_number_has_no_parameters():
  layer = models.QuantizedInput(Activation(activations.sign, signed=True))
  assert not init(layer)
  np.testing.assert_array_equal(
    layer.apply({}, jnp.asarray(X)), np.where(X < 0, -1, 1)
  )


def test_quantized_input_trained_number_has_start_value_and_is_used():
  function = activations.pact(2)
  layer = models.QuantizedInput(Activation(function, start=3.0))
  variables = init(layer)
  assert jax.tree.map(np.shape, variables) == {'params': {'number': ()}}
  assert float(variables['params']['number']) == 3
  for number in (3.0, 0.7):
    np.testing.assert_array_equal(
      layer.apply({'params': {'number': jnp.float32(number)}}, jnp.asarray(X)),
      function(jnp.asarray(X), jnp.float32(number)),
    )


def test_quantized_input_trained_number_has_gradient():
  layer = models.QuantizedInput(Activation(activations.pact(2), start=0.8))
  gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, jnp.asarray(X))))(
    init(layer)
  )
  assert float(gradient['params']['number']) == np.sum(X >= 0.8)


@pytest.mark.parametrize(
  'function', [activations.pact, activations.lsq_activation]
)
def test_quantized_input_negative_number_acts_as_minimum_and_recovers(
  function,
):
  layer = models.QuantizedInput(Activation(function(2), start=2.0))

  def total(number):
    variables = {'params': {'number': number}}
    return jnp.sum(layer.apply(variables, jnp.asarray(X)))

  for number in (-5.0, 0.0):
    value, slope = jax.value_and_grad(total)(jnp.float32(number))
    minimum, expected = jax.value_and_grad(total)(jnp.float32(0.002))
    assert (float(value), float(slope)) == (float(minimum), float(expected))
    assert np.isfinite(value)
    assert float(slope) > 0


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
def test_quantized_input_trained_number_is_at_least_float32(dtype):
  layer = models.QuantizedInput(Activation(activations.pact(4), 1.3), dtype)
  x = jnp.linspace(-1, 3, 999).reshape(3, 333).astype(dtype)
  variables = init(layer, x)
  y = layer.apply(variables, x)
  assert variables['params']['number'].dtype == np.float32
  assert y.dtype == dtype
  # Only the final result is rounded.
  want = np.arange(16, dtype=np.float32) * np.float32(1.3) / 15
  np.testing.assert_allclose(
    np.unique(y.astype(np.float32)),
    jnp.asarray(want, dtype).astype(np.float32),
    rtol=1e-6 if dtype == np.float32 else 2**-8,
  )


def test_quantized_input_float64_keeps_dtype(x64):
  layer = models.QuantizedInput(
    Activation(activations.lsq_activation(2), 0.1), np.float64
  )
  variables = init(layer, X.astype(np.float64))
  assert variables['params']['number'] == np.float64(0.1)
  assert layer.apply(variables, jnp.asarray(X, np.float64)).dtype == np.float64
