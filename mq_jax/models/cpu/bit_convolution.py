"""A convolution of ±1 with ±1 by counting bits, for inference on CPU.

±1 is one bit, 32 channels a word. Where the bits of a pixel and of a filter are
equal, the product is 1, where they differ −1, so that

  y = (number of products) − 2 · (bits that differ),

an exclusive or, a count of bits and a sum of integers: exact.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mq_jax.models.cpu.convolution import has_defaults

Array = jax.Array
Padding = Sequence[tuple[int, int]]
# One sum of 144 words took four times as long. In a loop over 12 or fewer XLA
# fuses the slice of the columns into the sum, and that took ten times as long;
# here a loop, where there is one, has 13 at least.
WORDS_AT_ONCE = 24


class Filters(NamedTuple):
  """Filters of ±1, ready for images of one size.

  Attributes:
    words: Bits, `(height, width, words of a pixel, features)`, uint32.
    constant: What the counts are taken from, `(1, height, width, features)` of
      the result, float32.
  """

  words: Array
  constant: Array


def bit_conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: Padding,
  **other: Any,
) -> Array:
  """`lax.conv_general_dilated` of ±1; for `flax.linen.Conv` to call.

  On CPU it counts bits, also where an exported program runs there; elsewhere,
  and where dilation, groups and the like are asked for, it is lax's. Any other
  values than ±1 give a result that means nothing. The gradient is that of the
  convolution.

  Args:
    lhs: Images of ±1, `(batch, height, width, channels)`.
    rhs: Filters of ±1, `(height, width, channels, features)`, of the dtype of
      `lhs`.
    window_strides: Of the two spatial axes.
    padding: Of the two spatial axes, with zeros: 0 or more.
    **other: Further arguments of `lax.conv_general_dilated`.

  Returns:
    `(batch, height, width, features)`, of the dtype of `lhs`.
  """
  strides = tuple(window_strides)
  pads = tuple((low, high) for low, high in padding)
  if not has_defaults(other):
    return lax.conv_general_dilated(lhs, rhs, strides, pads, **other)
  return _convolution(lhs, rhs, strides, pads)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolution(
  x: Array, w: Array, strides: tuple[int, ...], padding: Padding
) -> Array:
  def counted(x: Array, w: Array) -> Array:
    filters = pack_filters(w, x.shape[1], x.shape[2], strides, padding)
    return convolve_words(pack(x), filters, strides, padding).astype(x.dtype)

  plain = functools.partial(_plain, strides=strides, padding=padding)
  return lax.platform_dependent(x, w, cpu=counted, default=plain)


@_convolution.defjvp
def _convolution_jvp(
  strides: tuple[int, ...],
  padding: Padding,
  primals: tuple[Array, Array],
  tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
  # Else it would be 0: integers have no gradient.
  plain = functools.partial(_plain, strides=strides, padding=padding)
  _, tangent = jax.jvp(plain, primals, tangents)
  return _convolution(*primals, strides, padding), tangent


def _plain(
  x: Array, w: Array, strides: tuple[int, ...], padding: Padding
) -> Array:
  return lax.conv_general_dilated(
    x, w, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def pack(x: Array) -> Array:
  """±1 as bits, 32 channels a word; +1 is 1.

  Args:
    x: `(..., channels)`, floating point.

  Returns:
    `(..., ⌈channels / 32⌉)`, uint32. Bits beyond the channels are 0.
  """
  *whole, channels = x.shape
  none = [(0, 0)] * len(whole)
  x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  x = jnp.pad(x, [*none, (0, -channels % 16)], constant_values=-1)
  # 16 bits as a product with powers of two, exact in float32: the shifts and
  # the sum of integers took up to twice the time.
  powers = jnp.asarray(1 << np.arange(16), x.dtype)
  sums = x.reshape(*whole, -(-channels // 16), 16) @ powers
  halves = ((sums + 65535) / 2).astype(jnp.uint32)
  halves = jnp.pad(halves, [*none, (0, halves.shape[-1] % 2)])
  # No bitcast of pairs: exported programs have no shape for one where the batch
  # has any size. Behind a sum XLA does not fuse; see the filters below.
  pairs = halves.reshape(*whole, -(-channels // 32), 2)
  places = np.array([0, 16], np.uint32).reshape((1,) * (x.ndim - 1) + (1, 2))
  return jnp.sum(pairs << places, axis=-1, dtype=jnp.uint32)


def pack_filters(
  w: Array,
  height: int,
  width: int,
  strides: Sequence[int] = (1, 1),
  padding: Padding = ((1, 1), (1, 1)),
) -> Filters:
  """Packs filters.

  A pixel of the padding has the bits 0, as if it were all −1. The constant adds
  the filter's weights that meet it, so that it contributes 0.

  Args:
    w: ±1, `(height, width, channels, features)`, floating point.
    height: Of the images.
    width: Of the images.
    strides: Of the two spatial axes.
    padding: Of the two spatial axes.
  """
  channels = w.shape[2]
  # Not as in `pack`: with the channels not last the product took eight times
  # as long. One sum of 32 bits is as fast as this, but XLA takes seconds to
  # fold it where filters are constants of a program; without any sum, XLA packs
  # them anew in every step of the loop below.
  parts = jnp.pad(w > 0, ((0, 0), (0, 0), (0, -channels % 32), (0, 0)))
  parts = parts.astype(jnp.uint32)
  for bits in (1, 2, 4):
    parts = parts[:, :, ::2] | parts[:, :, 1::2] << bits
  parts = parts.reshape(*w.shape[:2], -1, 4, w.shape[3])
  places = np.array([0, 8, 16, 24], np.uint32).reshape(1, 1, 1, 4, 1)
  words = jnp.sum(parts << places, axis=3, dtype=jnp.uint32)
  ones = jnp.sum(lax.population_count(words), axis=2).astype(jnp.float32)
  sums = 2 * ones - channels
  rows, columns = (
    _inside(*axis)
    for axis in zip((height, width), w.shape[:2], strides, padding, strict=True)
  )
  # Row by row, then column by column: a third of the work of the convolution.
  inside = jnp.einsum('vj,ijf->ivf', columns, sums)
  inside = jnp.einsum('hi,ivf->hvf', rows, inside)
  outside = jnp.sum(sums, axis=(0, 1), keepdims=True) - inside
  return Filters(words, (math.prod(w.shape[:3]) + outside)[None])


def _inside(
  length: int, size: int, stride: int, pads: tuple[int, int]
) -> np.ndarray:
  """Which pixels that a filter sees are of the image, `(result, size)`."""
  number = (length + sum(pads) - size) // stride + 1
  place = stride * np.arange(number)[:, None] + np.arange(size) - pads[0]
  return ((place >= 0) & (place < length)).astype(np.float32)


def convolve_words(
  x: Array,
  filters: Filters,
  strides: Sequence[int] = (1, 1),
  padding: Padding = ((1, 1), (1, 1)),
) -> Array:
  """The convolution of packed images.

  Args:
    x: Of `pack`, `(batch, height, width, words)`.
    filters: Of `pack_filters`.
    strides: As in `pack_filters`.
    padding: As in `pack_filters`.

  Returns:
    `(batch, height, width, features)`, float32.
  """
  size = filters.words.shape
  _, height, width, features = filters.constant.shape
  down, right = strides
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  columns = jnp.concatenate(
    [
      padded[
        :,
        i : i + down * (height - 1) + 1 : down,
        j : j + right * (width - 1) + 1 : right,
      ]
      for i in range(size[0])
      for j in range(size[1])
    ],
    axis=-1,
  )
  count = math.prod(size[:3])
  chunks = -(-count // WORDS_AT_ONCE)
  number = -(-count // chunks)
  rest = (0, chunks * number - count)
  # Equal bits, which count nothing, fill the last chunk.
  columns = jnp.pad(columns, ((0, 0), (0, 0), (0, 0), rest))
  columns = columns.reshape(*columns.shape[:-1], chunks, number)
  words = jnp.pad(filters.words.reshape(count, features), (rest, (0, 0)))
  words = words.reshape(chunks, number, 1, 1, 1, features)

  def add(chunk: Array, total: Array) -> Array:
    pixel = lax.dynamic_index_in_dim(columns, chunk, axis=3, keepdims=False)
    for i in range(number):
      differ = pixel[..., i, None] ^ words[chunk, i]
      total = total + lax.population_count(differ)
    return total

  total = jnp.zeros((x.shape[0], height, width, features), jnp.uint32)
  total = lax.fori_loop(0, chunks, add, total)
  return filters.constant - 2 * total.astype(jnp.float32)
