"""A convolution of ±1 with ±1 that counts bits, for inference on CPU.

A word holds 32 channels, one bit per channel. The product of a pixel and a
filter is 1 if their bits are equal and −1 if they differ, so that

  y = (number of products) − 2 · (number of bits that differ).

An exclusive or, a count of bits and a sum of integers compute y exactly.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mq_jax.models.cpu.convolution import (
  Padding,
  has_defaults,
  plain_convolution,
)

Array = jax.Array
# Maximum number of words per iteration. One sum of 144 words took four times as
# long. With 12 or fewer words per iteration, XLA fuses the slice of the columns
# into the sum, which took ten times as long. With this maximum, an iteration of
# a loop has at least 13 words.
WORDS_AT_ONCE = 24


class Filters(NamedTuple):
  """Packed filters of ±1 for images of one size.

  Attributes:
    words: Bits, `(height, width, words per pixel, features)`, uint32.
    constant: Results if no bits differ, `(1, height, width, features)` with the
      height and width of the result, float32.
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
  """Replaces `lax.conv_general_dilated` in a `flax.linen.Conv` of ±1.

  On CPU it counts bits, in exported programs too. On other platforms, and with
  dilation, groups or similar options, it is the convolution of lax. Values
  other than ±1 give meaningless results. The gradient is that of lax.

  Args:
    lhs: Images of ±1, `(batch, height, width, channels)`.
    rhs: Filters of ±1, `(height, width, channels, features)`, dtype of `lhs`.
    window_strides: Strides of the two spatial axes.
    padding: Zeros around the two spatial axes, 0 or more.
    **other: Further arguments of `lax.conv_general_dilated`.

  Returns:
    Array `(batch, height, width, features)`, of the dtype of `lhs`.
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

  plain = functools.partial(plain_convolution, strides=strides, padding=padding)
  return lax.platform_dependent(x, w, cpu=counted, default=plain)


@_convolution.defjvp
def _convolution_jvp(
  strides: tuple[int, ...],
  padding: Padding,
  primals: tuple[Array, Array],
  tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
  # The counts are integers, so their gradient would be 0.
  plain = functools.partial(plain_convolution, strides=strides, padding=padding)
  _, tangent = jax.jvp(plain, primals, tangents)
  return _convolution(*primals, strides, padding), tangent


def pack(x: Array) -> Array:
  """Packs ±1 into bits, 32 channels per word; +1 becomes 1.

  Args:
    x: Array of ±1, `(..., channels)`, floating point.

  Returns:
    Words, `(..., ⌈channels / 32⌉)`, uint32. Bits beyond the channels are 0.
  """
  *leading, channels = x.shape
  unpadded = [(0, 0)] * len(leading)
  x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  x = jnp.pad(x, [*unpadded, (0, -channels % 16)], constant_values=-1)
  # A product of 16 bits with powers of two is exact in float32. Shifts and a
  # sum of integers took up to twice the time.
  powers = jnp.asarray(1 << np.arange(16), x.dtype)
  sums = x.reshape(*leading, -(-channels // 16), 16) @ powers
  halves = ((sums + 65535) / 2).astype(jnp.uint32)
  halves = jnp.pad(halves, [*unpadded, (0, halves.shape[-1] % 2)])
  # Exported programs cannot bitcast pairs if the batch size is symbolic. XLA
  # does not fuse beyond a sum; see `pack_filters`.
  pairs = halves.reshape(*leading, -(-channels // 32), 2)
  places = np.array([0, 16], np.uint32).reshape((1,) * (x.ndim - 1) + (1, 2))
  return jnp.sum(pairs << places, axis=-1, dtype=jnp.uint32)


def pack_filters(
  w: Array,
  height: int,
  width: int,
  strides: Sequence[int] = (1, 1),
  padding: Padding = ((1, 1), (1, 1)),
) -> Filters:
  """Packs filters for images of one size.

  The bits of a padding pixel are 0, as if its channels were −1. The constant
  cancels their products, so that the padding contributes 0.

  Args:
    w: Filters of ±1, `(height, width, channels, features)`, floating point.
    height: Height of the images.
    width: Width of the images.
    strides: Strides of the two spatial axes.
    padding: Zeros around the two spatial axes.
  """
  channels = w.shape[2]
  # The product of `pack` takes eight times as long if the channels are not the
  # last axis. A single sum of 32 bits is as fast as this code, but XLA takes
  # seconds to fold it if filters are constants of a program. Without any sum,
  # XLA packs the filters again in every iteration of `convolve_words`.
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
  # Summing rows, then columns, takes a third of the work of a convolution.
  inside = jnp.einsum('vj,ijf->ivf', columns, sums)
  inside = jnp.einsum('hi,ivf->hvf', rows, inside)
  outside = jnp.sum(sums, axis=(0, 1), keepdims=True) - inside
  return Filters(words, (math.prod(w.shape[:3]) + outside)[None])


def _inside(
  length: int, size: int, stride: int, pads: tuple[int, int]
) -> np.ndarray:
  """Returns 1 for taps inside the image and 0 for others, `(result, size)`."""
  number = (length + sum(pads) - size) // stride + 1
  place = stride * np.arange(number)[:, None] + np.arange(size) - pads[0]
  return ((place >= 0) & (place < length)).astype(np.float32)


def convolve_words(
  x: Array,
  filters: Filters,
  strides: Sequence[int] = (1, 1),
  padding: Padding = ((1, 1), (1, 1)),
) -> Array:
  """Convolves packed images with packed filters.

  Args:
    x: Images from `pack`, `(batch, height, width, words)`.
    filters: Filters from `pack_filters`.
    strides: Strides that `pack_filters` was called with.
    padding: Padding that `pack_filters` was called with.

  Returns:
    Array `(batch, height, width, features)`, float32.
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
  # Equal bits fill the last chunk and add nothing to the count.
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
