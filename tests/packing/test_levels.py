"""Tests tables of levels that are found in values, and their common scale."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mq_jax
from mq_jax.packing import levels

FEW = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.3, 1.0, 7.0])


def view_bits(array):
  array = np.ascontiguousarray(array)
  return array.view(f'u{array.itemsize}')


def look_up(codes, table):
  """Returns `levels[codes]`, computed weight by weight."""
  found = np.empty(codes.shape, table.dtype)
  for place in itertools.product(*map(range, codes.shape)):
    if table.ndim == 1:
      row = table
    else:
      row = table[
        tuple(
          i * tables // length
          for i, tables, length in zip(
            place, table.shape, codes.shape, strict=False
          )
        )
      ]
    found[place] = row[codes[place]]
  return found


@st.composite
def weights(draw):
  shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
  dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
  w = draw(hnp.arrays(dtype, shape, elements=FEW.map(dtype)))
  if draw(st.booleans()):
    return w, ()
  divisors = [[t for t in range(1, n + 1) if n % t == 0] for n in shape]
  return w, tuple(draw(st.sampled_from(choices)) for choices in divisors)


@settings(max_examples=150)
@given(weights())
def test_by_value_any_weight_codes_index_its_values(given):
  w, tables = given
  codes, table = levels.by_value(w, tables)
  assert codes.shape == w.shape
  assert codes.dtype == np.int64
  assert table.dtype == w.dtype
  assert table.shape[:-1] == tables
  np.testing.assert_array_equal(view_bits(look_up(codes, table)), view_bits(w))
  # Each table contains the values of its part of w in ascending order, and
  # repeats the last value.
  maximum = 0
  for place in itertools.product(*map(range, tables)):
    part = w[
      tuple(
        slice(i * length // n, (i + 1) * length // n)
        for i, n, length in zip(place, tables, w.shape, strict=False)
      )
    ]
    row = table[place]
    distinct = np.unique(view_bits(part))
    maximum = max(maximum, len(distinct))
    np.testing.assert_array_equal(np.unique(view_bits(row)), distinct)
    assert np.all(np.diff(row) >= 0)
    assert np.all(view_bits(row[len(distinct) :]) == view_bits(row[-1:]))
  assert table.shape[-1] == maximum


def test_by_value_small_weight_equals_hand_computed_tables():
  w = np.array([[3.0, 5.0], [1.0, 5.0], [3.0, 5.0]], np.float32)
  codes, table = levels.by_value(w, ())
  np.testing.assert_array_equal(codes, [[1, 2], [0, 2], [1, 2]])
  np.testing.assert_array_equal(table, [1, 3, 5])
  codes, table = levels.by_value(w, (1, 2))
  np.testing.assert_array_equal(codes, [[1, 0], [0, 0], [1, 0]])
  np.testing.assert_array_equal(table, [[[1, 3], [5, 5]]])
  codes, table = levels.by_value(w, (3, 1))
  np.testing.assert_array_equal(codes, [[0, 1], [0, 1], [0, 1]])
  np.testing.assert_array_equal(table, [[[3, 5]], [[1, 5]], [[3, 5]]])
  codes, table = levels.by_value(np.array([2.0, -0.0, 7.0, 0.0]), (2,))
  np.testing.assert_array_equal(codes, [1, 0, 1, 0])
  np.testing.assert_array_equal(table, [[-0.0, 2], [0, 7]])


# A common scale.


@settings(max_examples=30)
@given(st.integers(1, 255), st.floats(1e-6, 1e6), st.sampled_from(['f4', 'f8']))
def test_scale_of_even_grid_returns_alpha(maximum, alpha, dtype):
  with jax.enable_x64(True):
    grid = jnp.arange(-maximum, maximum + 1, dtype=dtype)
    scale = levels.scale_of(grid * jnp.asarray(alpha, dtype))
    assert scale.shape == ()
    assert scale.dtype == dtype
    np.testing.assert_allclose(scale, alpha, rtol=4 * jnp.finfo(dtype).eps)


def test_scale_of_channels_and_zeros_returns_one_alpha_per_channel():
  table = jnp.array([[-0.5, 0.5], [0.0, 0.0], [-3.0, 3.0]])
  scale = levels.scale_of(table.reshape(1, 1, 1, 3, 2))
  np.testing.assert_array_equal(scale, [0.5, 1, 3])
  # A norm cannot take scales per input channel.
  assert levels.scale_of(table.reshape(1, 1, 3, 1, 2)) is None
  np.testing.assert_array_equal(levels.scale_of(jnp.zeros(3)), 1.0)
  # 8 bits have 255 steps of ±1; powers of two can exceed that range.
  w = jnp.linspace(-1, 1, 8)
  assert levels.scale_of(mq_jax.dorefa(7).codes(w, ())[1]) == 1 / 127
  assert levels.scale_of(mq_jax.dorefa(8).codes(w, ())[1]) == 1 / 255
  for bits, scale in ((5, 2.0**-7), (6, None)):
    ladder = mq_jax.methods.powers_of_two(bits).codes(w, ())[1]
    assert levels.scale_of(ladder) == scale


def is_exact(table, multiples):
  scale, integers = multiples
  assert scale.shape == (*table.shape[:-1], 1)
  assert integers.shape == table.shape
  assert scale.dtype == table.dtype
  assert integers.dtype == np.int64
  assert np.all(scale > 0)
  product = scale * integers.astype(table.dtype)
  return np.array_equal(view_bits(product), view_bits(table))


@settings(max_examples=100)
@given(
  st.lists(st.integers(-255, 255), min_size=1, max_size=9),
  st.floats(1e-20, 1e20),
  st.sampled_from([np.float32, np.float64]),
)
def test_exact_multiples_of_rounded_products_reproduce_levels(
  integers, scale, dtype
):
  table = dtype(scale) * np.array([1, *integers], dtype)
  found = levels.exact_multiples(table)
  assert found is not None
  assert is_exact(table, found)
  np.testing.assert_array_equal(found[1], [1, *integers])


@settings(max_examples=100)
@given(
  st.lists(st.integers(-255, 255), min_size=2, max_size=6),
  st.floats(1e-3, 1e3),
  st.integers(0, 5),
  st.integers(-3, 3),
)
def test_exact_multiples_perturbed_level_gives_exact_result_or_none(
  integers, scale, place, ulps
):
  """Changes one level by a few units in the last place."""
  table = np.float32(scale) * np.array(integers, np.float32) + np.float32(0)
  place %= len(integers)
  moved = view_bits(table)[place] + np.uint32(abs(ulps)) * (table[place] != 0)
  table[place] = moved.astype(np.uint32).view(np.float32)
  found = levels.exact_multiples(table)
  assert found is None or is_exact(table, found)


@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_exact_multiples_without_exact_scale_return_none():
  scale = np.float32(0.1)
  above = np.nextafter(scale, np.float32(1))
  for table in (
    [-scale, above],
    [scale, np.float32(np.pi) * scale],
    [scale, 256 * scale],
    [-0.0, scale],  # integers have no -0
    [-0.0],
    [1e-45, 2e-45],  # XLA treats it as 0
    [1e-45, 1.0],
  ):
    assert levels.exact_multiples(np.array(table, np.float32)) is None, table
  # `scale_of` ignores rounding errors.
  assert levels.scale_of(np.array([-scale, above])) is not None


def test_exact_multiples_of_channels_have_one_scale_per_channel():
  table = np.array([[-0.1, 0.1], [-0.3, 0.3], [0, 0]], np.float32)
  scale, integers = levels.exact_multiples(table[None])
  np.testing.assert_array_equal(
    scale, np.array([[[0.1], [0.3], [1.0]]], np.float32)
  )
  np.testing.assert_array_equal(integers, [[[-1, 1], [-1, 1], [0, 0]]])
  table[1, 1] = 0.31
  assert levels.exact_multiples(table[None]) is None
