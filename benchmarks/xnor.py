"""Compares convolutions of ±1 that count bits with XLA's in float32.

  python -m benchmarks.xnor [--quick] [--json FILE]

The benchmark is for CPU; `benchmarks.bit_networks` has whole networks. Filters
are 3x3 with stride 1, as many as channels. Activations are the floats of the
previous layer; the measured time includes packing them. Filters are packed
beforehand. The command first checks that both results are the same integers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import cases, measure, table
from mq_jax.models.cpu import bit_convolution

Array = jax.Array

# The stages of ResNet20, then wider ones: side, channels, batch.
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
# FLOPs of the float convolution per round, well above the clock's resolution.
ROUND_FLOPS = 4e9
# Alternatives, as time over that of the float convolution, measured on a busy
# AMD EPYC with AVX-512 VPOPCNTDQ, where this implementation took 0.08 to 0.24
# (0.4 to 0.5 for one image of 16x16x32 or 8x8x64): all words in one sum 0.13 to
# 0.55, at 512 channels 0.3 to 0.4; features in blocks 0.11 to 0.29; `sum` over
# an axis of words 0.2 to 10; `lax.scan` over single words 0.11 to 1.6;
# `lax.map` over filters 0.3 to 1.6; words of 16 bits in one sum 0.13 to 3.6, of
# 8 bits 0.27 to 6.7; a convolution in int8 0.5 to 1.0, at 16 channels 3 to 7; a
# product of int8 columns 0.5 to 2.9.


def convolve_bits(x: Array, filters: bit_convolution.Filters) -> Array:
  """Convolves unpacked images of ±1 by counting bits."""
  packed = bit_convolution.pack(x)
  return bit_convolution.convolve_words(packed, filters)


def convolve_floats(x: Array, w: Array) -> Array:
  """Convolves images in float32, padded to the same size."""
  return lax.conv_general_dilated(
    x,
    w,
    window_strides=(1, 1),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def main() -> None:
  """Prints the table."""
  args = table.parse(table.bare_parser(__doc__), QUICK)
  rows = [_row(*shape, args.rounds) for shape in SHAPES]
  table.show(
    '3x3 convolutions of ±1, by counting bits and in float32: median'
    f' (minimum-maximum) of {args.rounds} rounds',
    rows,
    args,
    'Activations are floats. The last column leaves out the time to pack them.'
    ' All results are equal bit for bit.',
  )


def _row(side: int, channels: int, batch: int, rounds: int) -> table.Row:
  rng = np.random.default_rng(0)
  x = _signs(rng, (batch, side, side, channels))
  w = _signs(rng, (3, 3, channels, channels))
  pack_filters = functools.partial(
    bit_convolution.pack_filters, height=side, width=side
  )
  filters = jax.jit(pack_filters)(w)
  compared = [
    _case('float32', convolve_floats, x, w),
    _case('bits', convolve_bits, x, filters),
    _case(
      'words',
      bit_convolution.convolve_words,
      jax.jit(bit_convolution.pack)(x),
      filters,
    ),
  ]
  if differing := measure.differing(compared):
    raise SystemExit(f'The convolutions differ at {differing[1]}.')
  seconds = measure.rounds_of(compared, ROUND_FLOPS, rounds)
  times = measure.medians(seconds)
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
    # The sum makes each step wait for the previous one.
    return total + y[0, 0, 0, 0], y

  return cases.Case(name, step_fn, np.float32(0), inputs)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
  return jnp.asarray(2.0 * rng.integers(0, 2, shape) - 1, jnp.float32)


if __name__ == '__main__':
  main()
