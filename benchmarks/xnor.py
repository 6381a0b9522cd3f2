"""A convolution of ±1 with ±1 by counting bits, against XLA's in float32.

  python -m benchmarks.xnor [--quick] [--json FILE]

For CPU. A 3x3 filter, stride 1, as many filters as channels. The activations
come as the floats of the layer before, and are packed within the time; filters
are packed ahead. Both results are the same integers, which is looked at first.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import cases, flops, measure, table

Array = jax.Array

# ResNet20's three stages, then wider ones: side, channels, batch.
SHAPES = (
  (32, 16, 1),
  (32, 16, 64),
  (16, 32, 1),
  (16, 32, 64),
  (8, 64, 1),
  (8, 64, 64),
  (8, 256, 1),
  (8, 256, 16),
  (8, 512, 1),
  (8, 512, 16),
)
QUICK = {'rounds': 3}
# Of a round of the float convolution: enough to outlast the clock's grain.
ROUND_FLOPS = 4e9
# One sum of 144 words took four times as long. In a loop over 12 or fewer XLA
# fuses the slice of the columns into the sum, and that took ten times as long;
# here a loop, where there is one, has 14 at least.
WORDS_AT_ONCE = 24


class Filters(NamedTuple):
  """3x3 filters of ±1, ready for images of one size.

  Attributes:
    words: Bits, `(9 · words of a pixel, features)`, uint32.
    constant: What the counts are taken from, `(1, height, width, features)`.
  """

  words: Array
  constant: Array


def pack(x: Array) -> Array:
  """±1 as bits, 32 channels a word; +1 is 1.

  Args:
    x: `(..., channels)`, float32.

  Returns:
    `(..., ⌈channels / 32⌉)`, uint32. Bits beyond the channels are 0.
  """
  whole = [(0, 0)] * (x.ndim - 1)
  x = jnp.pad(x, [*whole, (0, -x.shape[-1] % 16)], constant_values=-1)
  # 16 bits as a product with powers of two, exact in float32: the shifts and
  # the sum of integers took up to twice the time.
  powers = jnp.asarray(1 << np.arange(16), x.dtype)
  sums = x.reshape(*x.shape[:-1], -1, 16) @ powers
  halves = ((sums + 65535) / 2).astype(jnp.uint16)
  halves = jnp.pad(halves, [*whole, (0, halves.shape[-1] % 2)])
  pairs = halves.reshape(*halves.shape[:-1], -1, 2)
  return lax.bitcast_convert_type(pairs, jnp.uint32)


def pack_filters(w: Array, height: int, width: int) -> Filters:
  """Packs filters.

  A pixel of the padding has the bits 0, as if it were all −1. The constant adds
  the filter's weights that meet it, so that it contributes 0.

  Args:
    w: ±1, `(3, 3, channels, features)`, float32.
    height: Of the images.
    width: Of the images.
  """
  words = jnp.swapaxes(pack(jnp.swapaxes(w, 2, 3)), 2, 3)
  outside = jnp.pad(
    jnp.zeros((1, height, width, 1), w.dtype),
    ((0, 0), (1, 1), (1, 1), (0, 0)),
    constant_values=1,
  )
  met = _convolution(outside, jnp.sum(w, axis=2, keepdims=True), 'VALID')
  return Filters(words.reshape(-1, w.shape[-1]), 9 * w.shape[2] + met)


def convolve_words(x: Array, filters: Filters) -> Array:
  """The convolution of packed images: 9 channels − 2 · (bits that differ).

  Args:
    x: Of `pack`, `(batch, height, width, words)`.
    filters: Of `pack_filters`.

  Returns:
    `(batch, height, width, features)`, float32.
  """
  # Also measured, as time over that of the float convolution, where this took
  # 0.08 to 0.24 (0.4 to 0.5 for one image of 16x16x32 or 8x8x64), on an AMD
  # EPYC with AVX-512 VPOPCNTDQ and other work beside: all words in one sum 0.13
  # to 0.55, at 512 channels 0.3 to 0.4; features in blocks 0.11 to 0.29; `sum`
  # over an axis of words 0.2 to 10; `lax.scan` over single words 0.11 to 1.6;
  # `lax.map` over filters 0.3 to 1.6; words of 16 bits in one sum 0.13 to 3.6,
  # of 8 bits 0.27 to 6.7; a convolution in int8 0.5 to 1.0, at 16 channels 3 to
  # 7; a product of int8 columns 0.5 to 2.9; this one, kept from AVX-512 by
  # XLA_FLAGS=--xla_cpu_max_isa=AVX2, 0.3 to 1.1.
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifts = [(i, j) for i in range(3) for j in range(3)]
  columns = jnp.concatenate(
    [padded[:, i : i + height, j : j + width] for i, j in shifts], axis=-1
  )
  count, features = filters.words.shape
  chunks = -(-count // WORDS_AT_ONCE)
  size = -(-count // chunks)
  rest = (0, chunks * size - count)
  # Equal bits, which count nothing, fill the last chunk.
  columns = jnp.pad(columns, ((0, 0), (0, 0), (0, 0), rest))
  words = jnp.pad(filters.words, (rest, (0, 0)))
  columns = columns.reshape(*columns.shape[:-1], chunks, size)
  words = words.reshape(chunks, size, 1, 1, 1, features)

  def add(chunk: Array, total: Array) -> Array:
    pixel = lax.dynamic_index_in_dim(columns, chunk, axis=3, keepdims=False)
    for i in range(size):
      differ = pixel[..., i, None] ^ words[chunk, i]
      total = total + lax.population_count(differ)
    return total

  total = jnp.zeros((*x.shape[:3], features), jnp.uint32)
  total = lax.fori_loop(0, chunks, add, total)
  return filters.constant - 2 * total.astype(jnp.float32)


def convolve_bits(x: Array, filters: Filters) -> Array:
  """As `convolve_words`, of images of ±1 that are not yet packed."""
  return convolve_words(pack(x), filters)


def convolve_floats(x: Array, w: Array) -> Array:
  """What it is compared with: XLA's convolution, padded to the same size."""
  return _convolution(x, w, 'SAME')


def _convolution(x: Array, w: Array, padding: str) -> Array:
  return lax.conv_general_dilated(
    x,
    w,
    window_strides=(1, 1),
    padding=padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def main() -> None:
  """Prints the table."""
  args = table.parse(table.bare_parser(__doc__.splitlines()[0]), QUICK)
  rows = [_row(*shape, args.rounds) for shape in SHAPES]
  table.show(
    '3x3 convolutions of ±1, by counting bits and in float32: median'
    f' (least-largest) of {args.rounds} rounds',
    rows,
    args,
    'The activations come as floats; packed before: not within the time. The'
    ' results are equal bit for bit.',
  )


def _row(side: int, channels: int, batch: int, rounds: int) -> table.Row:
  rng = np.random.default_rng(0)
  x = _signs(rng, (batch, side, side, channels))
  w = _signs(rng, (3, 3, channels, channels))
  filters = jax.jit(pack_filters, static_argnums=(1, 2))(w, side, side)
  compared = [
    _case('float32', convolve_floats, x, w),
    _case('bits', convolve_bits, x, filters),
    _case('words', convolve_words, jax.jit(pack)(x), filters),
  ]
  _check_equal(compared)
  work = flops.count(convolve_floats, x, w)
  steps = max(1, round(ROUND_FLOPS / work))
  programs = [measure.compile_case(case, steps) for case in compared]
  seconds = measure.interleaved(programs, rounds)
  times = [
    1e3 * measure.spread([turn[i] for turn in seconds]).median
    for i in range(len(programs))
  ]
  ratio = functools.partial(measure.ratios, seconds, over=0)
  return {
    'image': f'{side}x{side}x{channels}',
    'batch': batch,
    'float32 ms': times[0],
    'bits ms': times[1],
    'bits / float32': ratio(1),
    'packed before / float32': ratio(2),
  }


def _case(
  name: str, function: Callable[..., Array], *inputs: Any
) -> cases.Case:
  def step_fn(total: Array, batch: Any) -> tuple[Array, Array]:
    y = function(*batch)
    # So that each step waits for the one before.
    return total + y[0, 0, 0, 0], y

  return cases.Case(name, step_fn, np.float32(0), inputs)


def _check_equal(compared: list[cases.Case]) -> None:
  results = [
    np.asarray(jax.jit(case.step_fn)(case.state, case.batch)[1])
    for case in compared
  ]
  # As bytes: −0 would not be 0.
  if len({result.tobytes() for result in results}) > 1:
    raise SystemExit(f'the convolutions differ at {results[0].shape}')


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
  return jnp.asarray(2.0 * rng.integers(0, 2, shape) - 1, jnp.float32)


if __name__ == '__main__':
  main()
