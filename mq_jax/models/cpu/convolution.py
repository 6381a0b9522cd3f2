"""A convolution whose filter gradient is fast on CPU too.

XLA's CPU compiler computes the gradient of a 3x3 filter as a convolution with a
filter as large as the image, between two transposed copies. One matrix product
over all pixels takes half the time for 32 or more channels
(docs/performance.md). On other platforms the gradient is the gradient of
`lax.conv_general_dilated`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Padding = Sequence[tuple[int, int]]
FEWEST_CHANNELS = 32  # with fewer channels, both gradients take the same time


def conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: Padding,
  **other: Any,
) -> Array:
  """Replaces `lax.conv_general_dilated` in `flax.linen.Conv`.

  Forward-mode differentiation (`jax.jvp`) of a layer with the custom filter
  gradient raises jax's error for `custom_vjp`.

  Args:
    lhs: Images, `(batch, height, width, channels)`.
    rhs: Filters, `(height, width, channels, features)`.
    window_strides: Strides of the two spatial axes.
    padding: Zeros around the two spatial axes.
    **other: Further arguments of `lax.conv_general_dilated`.

  Returns:
    Array `(batch, height, width, features)`.
  """
  has_custom_gradient = (
    tuple(rhs.shape[:2]) == (3, 3)
    and tuple(window_strides) == (1, 1)
    and [tuple(pad) for pad in padding] == [(1, 1), (1, 1)]
    and min(rhs.shape[2:]) >= FEWEST_CHANNELS
    and has_defaults(other)
  )
  if has_custom_gradient:
    return _conv3x3(lhs, rhs)
  return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **other)


def has_defaults(other: Mapping[str, Any]) -> bool:
  """Returns False if an argument requires the convolution of lax.

  Args:
    other: Further arguments of `lax.conv_general_dilated`. Arguments that a
      later flax may add also require lax, unless they have a default value.
  """
  return all(
    value in (None, 1, (1, 1))
    for name, value in other.items()
    if name != 'dimension_numbers'
  )


def plain_convolution(
  x: Array,
  w: Array,
  strides: Sequence[int] = (1, 1),
  padding: Padding = ((1, 1), (1, 1)),
) -> Array:
  """Returns the convolution of lax, with the axes that Flax uses."""
  return lax.conv_general_dilated(
    x, w, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@jax.custom_vjp
def _conv3x3(x: Array, w: Array) -> Array:
  """Convolves with stride 1 to a result of the size of `x`."""
  return plain_convolution(x, w)


def _conv3x3_fwd(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
  return plain_convolution(x, w), (x, w)


def _conv3x3_bwd(
  residuals: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
  x, w = residuals
  (dx,) = jax.linear_transpose(lambda x: plain_convolution(x, w), x)(g)

  def plain_gradient(x: Array, g: Array) -> Array:
    return jax.linear_transpose(lambda w: plain_convolution(x, w), w)(g)[0]

  dw = lax.platform_dependent(x, g, cpu=filter_gradient, default=plain_gradient)
  return dx, dw


_conv3x3.defvjp(_conv3x3_fwd, _conv3x3_bwd)


def filter_gradient(x: Array, g: Array) -> Array:
  """Returns ∂loss/∂w of y = conv3x3(x, w) from one matrix product.

    dw[i, j, c, f] = Σ_{n,h,v} x[n, h + i − 1, v + j − 1, c] · g[n, h, v, f]

  Three copies of x are shifted by j and three copies of g by −i. Their pairs
  give all nine products.

  Args:
    x: Images, `(batch, height, width, channels)`.
    g: ∂loss/∂y, `(batch, height, width, features)`.

  Returns:
    Gradient of the filter, `(3, 3, channels, features)`.
  """
  batch, height, width, channels = x.shape
  features = g.shape[-1]
  x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
  g = jnp.pad(g, ((0, 0), (1, 1), (0, 0), (0, 0)))
  columns = jnp.concatenate([x[:, :, j : j + width] for j in range(3)], -1)
  rows = jnp.concatenate([g[:, 2 - i : 2 - i + height] for i in range(3)], -1)
  # XLA spreads the batch axis of a product over the cores, but not its sum.
  parts = 2 if batch % 2 == 0 else 1
  dw = jnp.sum(
    jnp.einsum(
      'pkc,pkf->pcf',
      columns.reshape(parts, -1, 3 * channels),
      rows.reshape(parts, -1, 3 * features),
    ),
    axis=0,
  )
  return jnp.transpose(dw.reshape(3, channels, 3, features), (2, 0, 1, 3))
