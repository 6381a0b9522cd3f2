"""A depthwise convolution that is fast on CPU too.

XLA's CPU compiler runs a convolution with one filter per channel many times
slower (docs/performance.md) than the sum of shifted products

  y[n, h, v, c] = Σ_{i,j} x[n, s·h + i − p, s·v + j − q, c] · w[i, j, c],

which fuses into one loop, and its gradients many times slower than sums of such
products. On other platforms the convolution and its gradients are those of
`lax.conv_general_dilated`.
"""

import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.models.cpu.convolution import Padding, has_defaults

Array = jax.Array


def depthwise_conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: Padding | str,
  *,
  feature_group_count: int,
  **other: Any,
) -> Array:
  """Replaces `lax.conv_general_dilated` in a depthwise `flax.linen.Conv`.

  Forward-mode differentiation (`jax.jvp`) raises jax's error for `custom_vjp`.

  Args:
    lhs: Images, `(batch, height, width, channels)`.
    rhs: Filters, `(height, width, 1, channels)`.
    window_strides: Strides of the two spatial axes.
    padding: Zeros around the two spatial axes, 0 or more, or 'SAME'.
    feature_group_count: Number of channels; with another number, or with
      further arguments, the convolution is that of lax.
    **other: Further arguments of `lax.conv_general_dilated`.

  Returns:
    Array `(batch, height, width, channels)`.
  """
  strides = tuple(window_strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[1:3], rhs.shape[:2], strides, padding
    )
  pads = tuple((low, high) for low, high in padding)
  is_depthwise = feature_group_count == lhs.shape[-1] == rhs.shape[-1]
  if is_depthwise and has_defaults(other):
    return _depthwise(strides, pads, lhs, rhs)
  return lax.conv_general_dilated(
    lhs, rhs, strides, pads, feature_group_count=feature_group_count, **other
  )


def plain_depthwise(
  x: Array, w: Array, strides: Sequence[int], padding: Padding
) -> Array:
  """Returns the convolution of lax, with the axes that Flax uses."""
  return lax.conv_general_dilated(
    x,
    w,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _depthwise(
  strides: tuple[int, ...], padding: Padding, x: Array, w: Array
) -> Array:
  return lax.platform_dependent(
    x,
    w,
    cpu=functools.partial(convolve, strides=strides, padding=padding),
    default=functools.partial(
      plain_depthwise, strides=strides, padding=padding
    ),
  )


def _depthwise_fwd(
  strides: tuple[int, ...], padding: Padding, x: Array, w: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _depthwise(strides, padding, x, w), (x, w)


def _depthwise_bwd(
  strides: tuple[int, ...],
  padding: Padding,
  residuals: tuple[Array, Array],
  g: Array,
) -> tuple[Array, Array]:
  def fast(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
    (dx,) = jax.linear_transpose(lambda x: convolve(x, w, strides, padding), x)(
      g
    )
    return dx, filter_gradient(x, g, w.shape, strides, padding)

  def plain(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
    _, pullback = jax.vjp(
      lambda x, w: plain_depthwise(x, w, strides, padding), x, w
    )
    return pullback(g)

  return lax.platform_dependent(*residuals, g, cpu=fast, default=plain)


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def convolve(
  x: Array, w: Array, strides: Sequence[int], padding: Padding
) -> Array:
  """Returns the depthwise convolution as a sum of shifted products.

  Args:
    x: Images, `(batch, height, width, channels)`.
    w: Filters, `(height, width, 1, channels)`, dtype of `x`.
    strides: Strides of the two spatial axes.
    padding: Zeros around the two spatial axes, 0 or more.

  Returns:
    Array `(batch, height, width, channels)`, of the dtype of `x`. The sum is
    float32 or wider.
  """
  wide = jnp.promote_types(jnp.float32, x.dtype)
  # The transpose sums in the dtype of the shifted arrays.
  taps = w.reshape(-1, 1, 1, 1, w.shape[-1]).astype(wide)
  products = (
    shifted * tap
    for shifted, tap in zip(
      _shifted(x.astype(wide), w.shape, strides, padding), taps, strict=True
    )
  )
  return functools.reduce(operator.add, products).astype(x.dtype)


def filter_gradient(
  x: Array,
  g: Array,
  shape: tuple[int, ...],
  strides: Sequence[int],
  padding: Padding,
) -> Array:
  """Returns ∂loss/∂w of y = convolve(x, w).

    dw[i, j, c] = Σ_{n,h,v} x[n, s·h + i − p, s·v + j − q, c] · g[n, h, v, c]

  Args:
    x: Images, `(batch, height, width, channels)`.
    g: ∂loss/∂y, `(batch, height, width, channels)`.
    shape: Shape of the filters, `(height, width, 1, channels)`.
    strides: Strides of the two spatial axes.
    padding: Zeros around the two spatial axes, 0 or more.

  Returns:
    Gradient of the filters, of the dtype of `x`. The sums are float32 or wider.
  """
  wide = jnp.promote_types(jnp.float32, x.dtype)

  # One pass computes all sums of an image, which fits into the cache. A pass
  # over the whole batch takes two to seven times as long.
  def of_image(image: tuple[Array, Array]) -> tuple[Array, ...]:
    x, g = image
    products = tuple(
      shifted.astype(wide) * g[None].astype(wide)
      for shifted in _shifted(x[None], shape, strides, padding)
    )
    zeros = (jnp.zeros((), wide),) * len(products)
    return tuple(
      lax.reduce(
        products,
        zeros,
        lambda a, b: tuple(map(operator.add, a, b)),
        (0, 1, 2),
      )
    )

  sums = jnp.stack(lax.map(of_image, (x, g)))
  return jnp.sum(sums, axis=1).reshape(shape).astype(x.dtype)


def _shifted(
  x: Array, shape: tuple[int, ...], strides: Sequence[int], padding: Padding
) -> Iterator[Array]:
  """Yields the pixels that each tap of a filter of `shape` multiplies."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  down, right = strides
  rows = (x.shape[1] - shape[0]) // down * down + 1
  columns = (x.shape[2] - shape[1]) // right * right + 1
  for i in range(shape[0]):
    for j in range(shape[1]):
      yield x[:, i : i + rows : down, j : j + columns : right]
