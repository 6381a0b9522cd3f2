"""Tables of levels: the values of a quantized weight, and their common scale.

All functions read values, in NumPy, and cannot run under jit.
"""

import math

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
      or as in `Quantizer.codes` one length per axis of `w_hat`.

  Returns:
    `(codes, levels)`: int64 of the shape of `w_hat`, and the values of each
    table in ascending order, of shape `(*tables, n)`. A table with fewer than
    n values repeats its last value. `dequantize(codes, levels)` is `w_hat` bit
    for bit.
  """
  counts = tables or (1,) * w_hat.ndim
  # Each axis becomes two: the tables along the axis, and the weights of each.
  lengths = [
    (count, length // count)
    for count, length in zip(counts, w_hat.shape, strict=True)
  ]
  order = [*range(0, 2 * w_hat.ndim, 2), *range(1, 2 * w_hat.ndim, 2)]
  moved = np.transpose(
    w_hat.reshape([n for pair in lengths for n in pair]), order
  )
  rows = moved.reshape(math.prod(counts), -1)
  row_codes, levels = _distinct(rows)
  moved_codes = row_codes.reshape(moved.shape)
  return (
    np.transpose(moved_codes, np.argsort(order)).reshape(w_hat.shape),
    levels.reshape(*tables, levels.shape[-1]),
  )


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the codes and the distinct values of each row."""
  ranks = _ranks(rows)
  order = np.argsort(ranks, axis=1)
  ranks = np.take_along_axis(ranks, order, axis=1)
  is_first = np.diff(ranks, axis=1, prepend=ranks[:, :1]) != 0
  sorted_codes = np.cumsum(is_first, axis=1)
  codes = np.empty_like(sorted_codes)
  np.put_along_axis(codes, order, sorted_codes, axis=1)
  values = np.take_along_axis(rows, order, axis=1)
  n = int(sorted_codes[:, -1].max()) + 1
  levels = np.repeat(values[:, -1:], n, axis=1)
  row = np.arange(len(rows))[:, None]
  levels[row, sorted_codes] = values
  return codes, levels


def _ranks(values: np.ndarray) -> np.ndarray:
  """Returns integers that compare as the values do, with −0 above 0."""
  # Values are compared by their bits: 0 and −0 are equal but not identical.
  patterns = np.ascontiguousarray(values).view(f'i{values.itemsize}')
  minus_zero = np.iinfo(patterns.dtype).min
  ranks = np.where(
    patterns < 0, minus_zero - patterns, patterns + (patterns > 0)
  )
  return np.where(patterns == minus_zero, 1, ranks)


def scales_of(levels: Array | np.ndarray) -> np.ndarray | None:
  """Returns the α of levels that are integers from −255 to 255 times α.

  That range covers all levels that 8 bits can distinguish, including the odd
  ones of `dorefa(8)`, and the powers of two of `inq` up to 5 bits.

  Args:
    levels: The tables of `Quantizer.codes`, shape `(*tables, n)`.

  Returns:
    α, the magnitude of the smallest non-zero level of each table, of shape
    `tables`; 1 where all levels are 0. None if a level is not such a multiple.
  """
  table = np.asarray(levels)
  magnitude = np.abs(table)
  largest = np.max(magnitude, axis=-1)
  smallest = np.min(magnitude, axis=-1, where=magnitude > 0, initial=np.inf)
  # α is computed from the largest level, whose relative rounding error is the
  # smallest. A ratio that overflows gives α = 0, and no integers.
  with np.errstate(over='ignore', divide='ignore', invalid='ignore'):
    steps = np.maximum(np.rint(largest / smallest), 1)
    alpha = np.where(largest > 0, largest / steps, 1).astype(table.dtype)
    multiples = integers(table / alpha[..., None])
  return None if multiples is None else alpha


def scale_of(levels: Array | np.ndarray) -> Array | None:
  """Returns the α of a layer or of its output channels (`scales_of`).

  Args:
    levels: The tables of `Quantizer.codes`, `(n,)` or `(1, ..., channels, n)`.

  Returns:
    α of shape `()` or `(channels,)`, or one α per group of channels if groups
    share a table. None if a level is not an integer from −255 to 255 times α,
    or if the tables belong to another axis.
  """
  table = np.asarray(levels)
  if any(length != 1 for length in table.shape[:-2]):
    return None
  scales = scales_of(table.reshape(table.shape[-2:]))
  return None if scales is None else jnp.asarray(scales)


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
    int64: `levels` is the rounded product. None if there is no such scale.
  """
  alpha = scales_of(levels)
  if alpha is None:
    return None
  table = levels.reshape(-1, levels.shape[-1])
  approximate = alpha.reshape(-1, 1)
  # Integers have no −0, so a table with a −0 gets no scale.
  integer = np.rint(table / approximate).astype(np.int64)
  multiples = integer.astype(levels.dtype)
  with np.errstate(divide='ignore', invalid='ignore'):
    candidates = np.concatenate([approximate, table / multiples], axis=1)
  scales = _exact(table, multiples, candidates)
  if np.any(scales == 0):
    return None
  return (
    scales.reshape(*levels.shape[:-1], 1),
    integer.reshape(levels.shape),
  )


def _exact(
  table: np.ndarray, multiples: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
  """Returns the first exact candidate of each table, or 0."""
  # XLA flushes subnormal numbers to 0.
  tiny = jnp.finfo(table.dtype).tiny
  scales = np.zeros(len(table), table.dtype)
  for scale in candidates.T[::-1]:
    with np.errstate(invalid='ignore', over='ignore'):
      products = scale[:, None] * multiples
      is_exact = np.all(_bits(products) == _bits(table), axis=1)
      is_exact &= np.isfinite(scale) & (scale >= tiny)
    scales = np.where(is_exact, scale, scales)
  return scales


def _bits(values: np.ndarray) -> np.ndarray:
  return values.view(f'u{values.itemsize}')
