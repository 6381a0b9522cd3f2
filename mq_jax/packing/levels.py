"""Tables of levels: the values of a quantized weight, and their common scale.

All functions read values, in NumPy, and cannot run under jit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
LARGEST = 255  # largest integer multiple of the scale that a level may be


def by_value(
  w_hat: np.ndarray, tables: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the codes and levels of a quantized weight in its values.

  Args:
    w_hat: Ŵ, of any shape.
    tables: The shape of the levels without their last axis: `()` for one table,
      or one length per axis of `w_hat`: 1 if the axis shares a table.

  Returns:
    `(codes, levels)`: int64 of the shape of `w_hat`, and the values of each
    table in ascending order, of shape `(*tables, n)`. A table with fewer than
    n values repeats its last value. `levels[codes]` is `w_hat` bit for bit.
  """
  table_axes = [axis for axis, length in enumerate(tables) if length != 1]
  shared_axes = [axis for axis in range(w_hat.ndim) if axis not in table_axes]
  order = table_axes + shared_axes
  moved = np.transpose(w_hat, order)
  rows = moved.reshape(int(np.prod(tables, dtype=int)), -1)
  values, codes = zip(*map(_distinct, rows), strict=True)
  n = max(map(len, values))
  levels = np.stack([np.pad(v, (0, n - len(v)), 'edge') for v in values])
  moved_codes = np.stack(codes).reshape(moved.shape)
  return (
    np.transpose(moved_codes, np.argsort(order)),
    levels.reshape(*tables, n),
  )


def _distinct(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  # Values are compared by their bits: 0 and −0 are equal but not identical.
  patterns, codes = np.unique(
    np.ascontiguousarray(row).view(f'u{row.itemsize}'), return_inverse=True
  )
  values = patterns.view(row.dtype)
  order = np.argsort(values, kind='stable')
  return values[order], np.argsort(order)[codes]


def scale_of(levels: Array | np.ndarray) -> Array | None:
  """Returns the α of levels that are integers from −255 to 255 times α.

  That range covers all levels that 8 bits can distinguish, including the odd
  ones of `dorefa(8)`, and the powers of two of `inq` up to 5 bits.

  Args:
    levels: The table of `Quantizer.codes`: `(n,)`, or `(1, ..., channels, n)`.

  Returns:
    α, the magnitude of the smallest non-zero level, of shape `()` or
    `(channels,)`; 1 where all levels are 0. None if a level is not such a
    multiple, or if the tables belong to an axis other than the last.
  """
  table = np.asarray(levels)
  if any(length != 1 for length in table.shape[:-2]):
    return None
  table = table.reshape(table.shape[-2:])
  magnitude = np.abs(table)
  largest = np.max(magnitude, axis=-1)
  smallest = np.min(magnitude, axis=-1, where=magnitude > 0, initial=np.inf)
  # α is computed from the largest level, whose relative rounding error is the
  # smallest. A ratio that overflows gives α = 0, and no integers.
  with np.errstate(over='ignore', divide='ignore', invalid='ignore'):
    steps = np.maximum(np.rint(largest / smallest), 1)
    alpha = np.where(largest > 0, largest / steps, 1).astype(table.dtype)
    multiples = integers(table / alpha[..., None])
  return None if multiples is None else jnp.asarray(alpha)


def integers(ratio: np.ndarray) -> np.ndarray | None:
  """Returns `ratio` rounded to integers from −255 to 255, or None.

  None means that some ratio is not such an integer up to rounding errors.
  """
  # jit may sum a scale in another order, which changes it by some ten units in
  # the last place. The bound excludes dtypes too narrow to recognize integers.
  eps = 64 * float(jnp.finfo(ratio.dtype).eps)
  rounded = np.rint(ratio)
  is_close = np.abs(ratio - rounded) <= min(eps * np.max(np.abs(rounded)), 1e-3)
  fits = np.all(is_close & (np.abs(rounded) <= LARGEST))
  return rounded if fits else None


def exact_multiples(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """Finds a scale for each table that reproduces its levels bit for bit.

  Args:
    levels: Levels of shape `(*tables, n)`.

  Returns:
    `(scale, multiples)` of shapes `(*tables, 1)` and `(*tables, n)`, the second
    int64: `levels` is the rounded product. None if there is no such scale, or
    if the tables belong to an axis other than the last.
  """
  alpha = scale_of(levels)
  if alpha is None:
    return None
  table = levels.reshape(-1, levels.shape[-1])
  approximate = np.broadcast_to(np.asarray(alpha), (len(table),))[:, None]
  # Integers have no −0, so a table with a −0 gets no scale.
  integer = np.rint(table / approximate).astype(np.int64)
  multiples = integer.astype(levels.dtype)
  with np.errstate(divide='ignore', invalid='ignore'):
    candidates = np.concatenate([approximate, table / multiples], axis=1)
    scales = list(map(_exact, table, multiples, candidates))
  if any(scale is None for scale in scales):
    return None
  return (
    np.asarray(scales, levels.dtype).reshape(*levels.shape[:-1], 1),
    integer.reshape(levels.shape),
  )


def _exact(table: np.ndarray, multiples: np.ndarray, candidates: Any) -> Any:
  # XLA flushes subnormal numbers to 0.
  tiny = jnp.finfo(table.dtype).tiny
  for scale in candidates[np.isfinite(candidates) & (candidates >= tiny)]:
    if np.array_equal(_bits(scale * multiples), _bits(table)):
      return scale
  return None


def _bits(values: np.ndarray) -> np.ndarray:
  return values.view(f'u{values.itemsize}')
