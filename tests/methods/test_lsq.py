"""Tests LSQ against the equations of its paper."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


def oracle(w, s, bits):
  """Returns Ŵ, ∂Ŵ/∂s and the mask of weights within the grid."""
  q_min, q_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
  rows = []
  for x in np.ravel(w):
    ratio = x / s
    if ratio <= q_min:
      rows.append((q_min * s, q_min, False))
    elif ratio >= q_max:
      rows.append((q_max * s, q_max, False))
    else:
      rounded = np.floor(ratio + 0.5)
      rows.append((rounded * s, rounded - ratio, True))
  return [np.reshape(column, w.shape) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize('bits', [2, 3, 8])
def test_lsq_values_and_gradients_match_oracle(bits):
  w, g = common.weight(1, (5, 7)), common.weight(2, (5, 7))
  quantizer = methods.lsq(bits, optimizer=optax.sgd(1.0))
  q_max = 2 ** (bits - 1) - 1
  start = quantizer.init(w)
  assert float(start.step) == pytest.approx(
    2 * np.mean(np.abs(w)) / np.sqrt(q_max)
  )
  for s in (float(start.step), 0.05, 0.4):
    variables = start._replace(step=jnp.asarray(s))
    w_hat, slope, inside = oracle(np.asarray(w), s, bits)
    np.testing.assert_allclose(common.values(quantizer, w, variables), w_hat)
    np.testing.assert_allclose(
      quantizer.straight_through(g, w, variables), g * inside
    )
    np.testing.assert_array_equal(quantizer.saturated(w, variables), ~inside)
    gradient = float(np.sum(g * slope)) / np.sqrt(w.size * q_max)
    # With a small learning rate the step size does not cross zero.
    slow = methods.lsq(bits, optimizer=optax.sgd(1e-3))
    slow_variables = slow.init(w)._replace(step=jnp.asarray(s))
    moved = slow.update(slow_variables, w, None, g).step
    assert s - float(moved) == pytest.approx(1e-3 * gradient, rel=1e-6)


def test_lsq_halves_round_upwards():
  quantizer = methods.lsq(3)
  w = jnp.array([0.5, 1.5, -0.5, -1.5])
  variables = quantizer.init(w)._replace(step=jnp.asarray(1.0))
  w_hat = common.values(quantizer, w, variables)
  np.testing.assert_array_equal(w_hat, [1, 2, 0, -1])


def test_lsq_no_gradient_passes_at_the_bounds():
  quantizer = methods.lsq(2)
  w = jnp.array([-2.0, 1.0, 0.25])
  variables = quantizer.init(w)._replace(step=jnp.asarray(1.0))
  g = quantizer.straight_through(jnp.ones(3), w, variables)
  np.testing.assert_array_equal(g, [0, 0, 1])
  saturated = quantizer.saturated(w, variables)
  np.testing.assert_array_equal(saturated, [True, True, False])


def test_lsq_step_size_stays_positive():
  w = common.weight(3)
  quantizer = methods.lsq(2, optimizer=optax.sgd(1e9))
  variables = quantizer.init(w)
  moved = quantizer.update(variables, w, None, w)
  assert float(moved.step) >= float(variables.step) / 1000


def test_lsq_layer_of_zeros_has_step_size_one():
  w = jnp.zeros((2, 2))
  quantizer = methods.lsq(2)
  assert float(quantizer.init(w).step) == 1
  assert not np.any(common.values(quantizer, w, quantizer.init(w)))


@pytest.mark.parametrize('bits', [1, 9, True, 2.0])
def test_lsq_invalid_bits_raise(bits):
  with pytest.raises(ValueError, match='bits='):
    methods.lsq(bits)
