"""The plain convolution, and the arguments that only lax implements."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax

Array = jax.Array
Padding = Sequence[tuple[int, int]]


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
