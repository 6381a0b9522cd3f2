"""The cell of a weight: the interval between two adjacent levels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.precision import widened
from mq_jax.quantizers.base import Quantizer, Variables, dequantize

Array = jax.Array


class Cell(NamedTuple):
  """Where the weights of one layer are between two adjacent levels.

  A weight beyond the outermost levels belongs to the outermost cell, and a
  weight at a level between others to the cell above it.

  Attributes:
    distance: Distance of the unrounded weight from the middle of its cell,
      where its code changes; positive on the side of the upper level.
    width: Distance between the two levels.
  """

  distance: Array
  width: Array


def cell_of(
  quantizer: Quantizer, w_tilde: Array, variables: Variables
) -> Cell | None:
  """Returns the cells of the weights of one layer, of the shape of `w_tilde`.

  They are in float32 or wider: a difference of two levels of 8 bits has few
  digits in a narrow type.

  Args:
    quantizer: Any quantizer.
    w_tilde: W̃.
    variables: Variables of the quantizer.

  Returns:
    A `Cell`; None if Q does not round to the nearest level
    (`Quantizer.unrounded`).
  """
  if quantizer.unrounded is None:
    return None
  w_tilde = widened(w_tilde)
  value = quantizer.unrounded(w_tilde, variables)
  codes, levels = quantizer.codes(w_tilde, variables)
  levels = widened(levels)
  last = levels.shape[-1] - 1
  code = codes.astype(jnp.int32)
  is_upper = (code == last) | ((code > 0) & (value < dequantize(code, levels)))
  lower = code - is_upper
  low, high = dequantize(lower, levels), dequantize(lower + 1, levels)
  return Cell(value - (low + high) / 2, high - low)
