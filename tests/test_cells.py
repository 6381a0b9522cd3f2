"""Tests the cells of weights of every quantizer against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.quantizers import at_start, cell_of, value_per_weight
from tests.test_interfaces import QUANTIZERS

# These do not round to the nearest of ascending levels, or not in the loss.
OTHERS = {
  *('aciq', 'annealed_adaste', 'bayes_binn', 'binary_relax'),
  *('clipped_uniform', 'inq', 'lq_nets', 'md_tanh', 'slb', 'ttq', 'twn'),
  'unquantized',
}


def weights():
  return jax.random.normal(jax.random.key(0), (6, 5, 4), jnp.float64)


@pytest.mark.parametrize('name', sorted(set(QUANTIZERS) - OTHERS))
def test_cells_of_each_quantizer_equal_brute_force(x64, name):
  quantizer = QUANTIZERS[name]()
  theta, variables = at_start(quantizer, weights())
  w_tilde = quantizer.preprocess(theta, variables)
  codes, levels = quantizer.codes(w_tilde, variables)
  value = np.asarray(quantizer.unrounded(w_tilde, variables))
  if levels.ndim == 1:
    levels = levels.reshape((1,) * codes.ndim + levels.shape)
  tables = np.stack(
    [
      value_per_weight(level, codes.shape)
      for level in jnp.moveaxis(levels, -1, 0)
    ],
    axis=-1,
  )
  assert np.all(np.diff(tables, axis=-1) > 0)
  # Q rounds to the nearest level.
  distances = np.abs(value[..., None] - tables)
  np.testing.assert_array_equal(codes, np.argmin(distances, axis=-1))
  cell = cell_of(quantizer, w_tilde, variables)
  for index in np.ndindex(value.shape):
    table, x = tables[index], value[index]
    upper = np.clip(np.searchsorted(table, x), 1, len(table) - 1)
    low, high = table[upper - 1], table[upper]
    np.testing.assert_allclose(cell.width[index], high - low, rtol=1e-14)
    np.testing.assert_allclose(
      cell.distance[index], x - (low + high) / 2, rtol=1e-12, atol=1e-15
    )
    # The code changes where the distance changes its sign.
    assert codes[index] == upper - (cell.distance[index] < 0)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('name', sorted(set(QUANTIZERS) - OTHERS))
def test_cells_of_narrow_weights_are_those_of_float32(name, dtype):
  """The distance has the sign of the code also between levels of 8 bits."""
  quantizer = QUANTIZERS[name]()
  w = jax.random.normal(jax.random.key(1), (32, 8, 4), dtype)
  theta, variables = at_start(quantizer, w)
  w_tilde = quantizer.preprocess(theta, variables)
  cell = cell_of(quantizer, w_tilde, variables)
  assert cell.distance.dtype == cell.width.dtype == jnp.float32
  wide = w_tilde.astype(jnp.float32)
  exact = cell_of(quantizer, wide, variables)
  np.testing.assert_array_equal(cell.distance, exact.distance)
  np.testing.assert_array_equal(cell.width, exact.width)
  codes = quantizer.codes(w_tilde, variables)[0]
  np.testing.assert_array_equal(codes, quantizer.codes(wide, variables)[0])


@pytest.mark.parametrize('name', sorted(OTHERS))
def test_other_quantizers_have_no_cells(name):
  quantizer = QUANTIZERS[name]()
  assert cell_of(quantizer, jnp.ones((3, 4)), None) is None


def test_cells_by_hand(x64):
  w = jnp.array([-3.0, -0.4, 0.0, 0.6, 2.0])  # levels −3, 0, 3
  cell = cell_of(methods.uniform(2), w, ())
  np.testing.assert_allclose(cell.distance, [-1.5, 1.1, -1.5, -0.9, 0.5])
  np.testing.assert_array_equal(cell.width, 5 * [3])


def test_cells_of_zeros_are_finite():
  cell = cell_of(mq_jax.bwn(), jnp.zeros((2, 3)), ())
  assert not np.any(cell.distance)
  assert not np.any(cell.width)
