"""Tables of levels: found in the values, and their common scale."""

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


def bits_of(array):
  array = np.ascontiguousarray(array)
  return array.view(f'u{array.itemsize}')


def picked(codes, table):
  """`levels[codes]`, one weight after the other."""
  found = np.empty(codes.shape, table.dtype)
  for place in itertools.product(*map(range, codes.shape)):
    if table.ndim == 1:
      own = table
    else:
      own = table[
        tuple(
          i if length != 1 else 0
          for i, length in zip(place, table.shape, strict=False)
        )
      ]
    found[place] = own[codes[place]]
  return found


@st.composite
def weights(draw):
  shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
  dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
  w = draw(hnp.arrays(dtype, shape, elements=FEW.map(dtype)))
  if draw(st.booleans()):
    return w, ()
  own = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
  return w, tuple(n if o else 1 for n, o in zip(shape, own, strict=True))


@settings(max_examples=150)
@given(weights())
def test_codes_and_levels_are_those_of_the_values(given):
  w, tables = given
  codes, table = levels.by_value(w, tables)
  assert codes.shape == w.shape
  assert codes.dtype == np.int64
  assert table.dtype == w.dtype
  assert table.shape[:-1] == tables
  np.testing.assert_array_equal(bits_of(picked(codes, table)), bits_of(w))
  # Each table has the values of its part, ascending, the last repeated.
  most = 0
  for place in itertools.product(*map(range, tables)):
    part = w[
      tuple(
        slice(i, i + 1) if n != 1 else slice(None)
        for i, n in zip(place, tables, strict=True)
      )
    ]
    own = table[place]
    distinct = np.unique(bits_of(part))
    most = max(most, len(distinct))
    np.testing.assert_array_equal(np.unique(bits_of(own)), distinct)
    assert np.all(np.diff(own) >= 0)
    assert np.all(bits_of(own[len(distinct) :]) == bits_of(own[-1:]))
  assert table.shape[-1] == most


def test_by_value_by_hand():
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


# A common scale.


@settings(max_examples=30)
@given(st.integers(1, 255), st.floats(1e-6, 1e6), st.sampled_from(['f4', 'f8']))
def test_scale_of_even_grids(most, alpha, dtype):
  with jax.enable_x64(True):
    grid = jnp.arange(-most, most + 1, dtype=dtype)
    scale = levels.scale_of(grid * jnp.asarray(alpha, dtype))
    assert scale.shape == ()
    assert scale.dtype == dtype
    np.testing.assert_allclose(scale, alpha, rtol=4 * jnp.finfo(dtype).eps)


def test_scale_of_channels_and_zeros():
  table = jnp.array([[-0.5, 0.5], [0.0, 0.0], [-3.0, 3.0]])
  scale = levels.scale_of(table.reshape(1, 1, 1, 3, 2))
  np.testing.assert_array_equal(scale, [0.5, 1, 3])
  # Per input channel: the norm has nothing that could take those.
  assert levels.scale_of(table.reshape(1, 1, 3, 1, 2)) is None
  np.testing.assert_array_equal(levels.scale_of(jnp.zeros(3)), 1.0)
  # 8 bits have 255 steps of ±1; powers of two may have more than that.
  w = jnp.linspace(-1, 1, 8)
  assert levels.scale_of(mq_jax.dorefa(7).codes(w, ())[1]) == 1 / 127
  assert levels.scale_of(mq_jax.dorefa(8).codes(w, ())[1]) == 1 / 255
  for bits, scale in ((5, 2.0**-7), (6, None)):
    ladder = mq_jax.methods.powers_of_two(bits).codes(w, ())[1]
    assert levels.scale_of(ladder) == scale


def exact(table, multiples):
  scale, whole = multiples
  assert scale.shape == (*table.shape[:-1], 1)
  assert whole.shape == table.shape
  assert scale.dtype == table.dtype
  assert whole.dtype == np.int64
  assert np.all(scale > 0)
  product = scale * whole.astype(table.dtype)
  return np.array_equal(bits_of(product), bits_of(table))


@settings(max_examples=100)
@given(
  st.lists(st.integers(-255, 255), min_size=1, max_size=9),
  st.floats(1e-20, 1e20),
  st.sampled_from([np.float32, np.float64]),
)
def test_rounded_multiples_have_a_scale_that_gives_them_back(
  whole, scale, dtype
):
  table = dtype(scale) * np.array([1, *whole], dtype)
  found = levels.exact_multiples(table)
  assert found is not None
  assert exact(table, found)
  np.testing.assert_array_equal(found[1], [1, *whole])


@settings(max_examples=100)
@given(
  st.lists(st.integers(-255, 255), min_size=2, max_size=6),
  st.floats(1e-3, 1e3),
  st.integers(0, 5),
  st.integers(-3, 3),
)
def test_a_scale_is_exact_or_there_is_none(whole, scale, place, ulps):
  """A level may be some units in the last place off."""
  table = np.float32(scale) * np.array(whole, np.float32) + np.float32(0)
  place %= len(whole)
  moved = bits_of(table)[place] + np.uint32(abs(ulps)) * (table[place] != 0)
  table[place] = moved.astype(np.uint32).view(np.float32)
  found = levels.exact_multiples(table)
  assert found is None or exact(table, found)


@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_levels_that_no_scale_gives_back():
  one = np.float32(0.1)
  above = np.nextafter(one, np.float32(1))
  for table in (
    [-one, above],
    [one, np.float32(np.pi) * one],
    [one, 256 * one],
    [-0.0, one],  # integers have no -0
    [-0.0],
    [1e-45, 2e-45],  # which XLA takes for 0
    [1e-45, 1.0],
  ):
    assert levels.exact_multiples(np.array(table, np.float32)) is None, table
  # As far as a scale is concerned, rounding is no difference.
  assert levels.scale_of(np.array([-one, above])) is not None
  # Tables of another axis than the last.
  other = np.array([[-1, 1], [-2, 2]], np.float32).reshape(2, 1, 2)
  assert levels.exact_multiples(other) is None


def test_each_channel_has_its_own_scale():
  table = np.array([[-0.1, 0.1], [-0.3, 0.3], [0, 0]], np.float32)
  scale, whole = levels.exact_multiples(table[None])
  np.testing.assert_array_equal(
    scale, np.array([[[0.1], [0.3], [1.0]]], np.float32)
  )
  np.testing.assert_array_equal(whole, [[[-1, 1], [-1, 1], [0, 0]]])
  table[1, 1] = 0.31
  assert levels.exact_multiples(table[None]) is None
