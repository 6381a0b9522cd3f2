"""The convolution that counts bits is the convolution, to the last bit."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import table, xnor

packed = jax.jit(xnor.pack_filters, static_argnums=(1, 2))


def signs(rng, *shape):
  return rng.choice([-1, 1], shape)


def oracle(x, w):
  """Integers throughout; what lies outside the image is left out."""
  _, height, width, _ = x.shape
  y = np.zeros((*x.shape[:3], w.shape[-1]), np.int64)
  for row in range(height):
    for column in range(width):
      for i in range(3):
        for j in range(3):
          r, c = row + i - 1, column + j - 1
          if 0 <= r < height and 0 <= c < width:
            y[:, row, column] += x[:, r, c] @ w[i, j]
  return y


def as_floats(*arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


# 96 channels: 27 words, in two chunks of 14.
@pytest.mark.parametrize(
  ('channels', 'size'),
  [
    (1, (2, 3)),
    (3, (5, 7)),
    (16, (1, 1)),
    (16, (7, 4)),
    (33, (3, 5)),
    (64, (5, 1)),
    (96, (3, 3)),
  ],
)
def test_integers_are_those_of_the_oracle(channels, size):
  rng = np.random.default_rng(channels)
  x, w = signs(rng, 2, *size, channels), signs(rng, 3, 3, channels, 5)
  expected = oracle(x, w)
  x, w = as_floats(x, w)
  filters = packed(w, *size)
  y = jax.jit(xnor.convolve_bits)(x, filters)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, expected)
  # As bytes: −0 would not be 0.
  assert np.asarray(y).tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize(('channels', 'side'), [(16, 32), (64, 8), (256, 4)])
def test_results_are_the_bytes_of_the_float_convolution(channels, side):
  rng = np.random.default_rng(side)
  x, w = as_floats(
    signs(rng, 2, side, side, channels), signs(rng, 3, 3, channels, channels)
  )
  filters = packed(w, side, side)
  y, packed_before, expected = (
    np.asarray(jax.jit(function)(*inputs))
    for function, *inputs in (
      (xnor.convolve_bits, x, filters),
      (xnor.convolve_words, xnor.pack(x), filters),
      (xnor.convolve_floats, x, w),
    )
  )
  assert y.tobytes() == packed_before.tobytes() == expected.tobytes()


def test_equal_signs_count_the_taps_within_the_image():
  x, w = jnp.ones((1, 3, 3, 33)), jnp.ones((3, 3, 33, 1))
  taps = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
  for sign in (1, -1):
    filters = packed(sign * w, 3, 3)
    y = jax.jit(xnor.convolve_bits)(x, filters)
    np.testing.assert_array_equal(y[0, ..., 0], sign * 33 * taps)


def test_bits_by_hand():
  x = np.full((2, 35), -1.0, np.float32)
  x[0, [0, 2]] = 1  # 1 + 4
  x[1, [15, 16, 31, 32, 34]] = 1
  words = xnor.pack(jnp.asarray(x))
  assert words.dtype == jnp.uint32
  expected = [[5, 0], [2**15 + 2**16 + 2**31, 1 + 4]]
  np.testing.assert_array_equal(words, np.array(expected, np.uint32))
  every = xnor.pack(jnp.ones((1, 16)))
  np.testing.assert_array_equal(every, np.array([[2**16 - 1]], np.uint32))


def run(monkeypatch, path):
  args = ['xnor', '--quick', '--rounds', '1', '--json', str(path)]
  monkeypatch.setattr(sys, 'argv', args)
  monkeypatch.setattr(xnor, 'SHAPES', ((4, 16, 1),))
  monkeypatch.setattr(xnor, 'ROUND_FLOPS', 1)
  xnor.main()


def test_the_table_has_its_row(monkeypatch, tmp_path, capsys):
  path = tmp_path / 'result.json'
  run(monkeypatch, path)
  result = json.loads(path.read_text())
  (row,) = result['rows']
  assert (row['image'], row['batch']) == ('4x4x16', 1)
  assert all(ratio > 0 for ratio in row['bits / float32'])
  assert 'network' not in result['config']
  assert table.markdown(result) in capsys.readouterr().out


def test_a_difference_stops_the_benchmark(monkeypatch, tmp_path):
  right = xnor.pack_filters

  def unpadded(w, height, width):
    filters = right(w, height, width)
    met_none = jnp.full_like(filters.constant, 9 * w.shape[2])
    return filters._replace(constant=met_none)

  monkeypatch.setattr(xnor, 'pack_filters', unpadded)
  with pytest.raises(SystemExit, match=r'differ at \(1, 4, 4, 16\)'):
    run(monkeypatch, tmp_path / 'result.json')
