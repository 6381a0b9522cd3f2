"""Tables of levels: what a quantized weight's values are, and what they share.

All of it decides by values, in NumPy: not under jit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
LARGEST = 255  # integer that a level may be of its scale


def by_value(
  w_hat: np.ndarray, tables: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Codes and levels of a quantized weight, found in its values.

  Args:
    w_hat: Ŵ, of any shape.
    tables: The shape of the levels without their last axis: `()` for one table,
      or `w_hat`'s rank, with 1 on every axis that shares a table.

  Returns:
    `(codes, levels)`: int64 of the shape of `w_hat`, and the values that each
    table has, ascending, shape `(*tables, n)`; a table with fewer than n has
    its last one several times. `levels[codes]` is `w_hat` bit for bit.
  """
  own = [axis for axis, length in enumerate(tables) if length != 1]
  order = own + [axis for axis in range(w_hat.ndim) if axis not in own]
  moved = np.transpose(w_hat, order)
  rows = moved.reshape(int(np.prod(tables, dtype=int)), -1)
  found = [_distinct(row) for row in rows]
  most = max(len(values) for values, _ in found)
  levels = np.stack(
    [np.pad(values, (0, most - len(values)), 'edge') for values, _ in found]
  )
  codes = np.stack([own_codes for _, own_codes in found]).reshape(moved.shape)
  return np.transpose(codes, np.argsort(order)), levels.reshape(*tables, most)


def _distinct(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  # By their bits: 0 and −0 are equal, and not the same.
  patterns, codes = np.unique(
    np.ascontiguousarray(row).view(f'u{row.itemsize}'), return_inverse=True
  )
  values = patterns.view(row.dtype)
  order = np.argsort(values, kind='stable')
  return values[order], np.argsort(order)[codes]


def scale_of(levels: Array | np.ndarray) -> Array | None:
  """The α of levels that are integers from −255 to 255 times the smallest.

  These hold all levels that 8 bits can tell apart, `dorefa(8)`'s odd ones too,
  and the powers of two of `inq` up to 5 bits.

  Args:
    levels: The table of `Quantizer.codes`: `(n,)`, or `(1, ..., channels, n)`.

  Returns:
    α, the size of the smallest level but 0, shape `()` or `(channels,)`; 1
    where all levels are 0. None if the others are no such multiples, or if the
    tables are those of another axis than the last.
  """
  table = np.asarray(levels)
  if any(length != 1 for length in table.shape[:-2]):
    return None
  table = table.reshape(table.shape[-2:])
  size = np.abs(table)
  largest = np.max(size, axis=-1)
  least = np.min(size, axis=-1, where=size > 0, initial=np.inf)
  # By way of the largest, of which rounding has taken the smallest share.
  # A ratio beyond all numbers gives α = 0, and no integers.
  with np.errstate(over='ignore', divide='ignore', invalid='ignore'):
    steps = np.maximum(np.rint(largest / least), 1)
    alpha = np.where(largest > 0, largest / steps, 1).astype(table.dtype)
    whole = integers(table / alpha[..., None])
  return None if whole is None else jnp.asarray(alpha)


def integers(ratio: np.ndarray) -> np.ndarray | None:
  """The integers from −255 to 255 that all of `ratio` are, but for rounding."""
  # jit may sum up a scale in another order, some ten units in the last place
  # apart. The bound is for dtypes too narrow to tell integers from others.
  eps = 64 * float(jnp.finfo(ratio.dtype).eps)
  whole = np.rint(ratio)
  error = np.abs(ratio - whole) <= min(eps * np.max(np.abs(whole)), 1e-3)
  fits = np.all(error & (np.abs(whole) <= LARGEST))
  return whole if fits else None


def exact_multiples(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """A scale for each table that gives its levels back bit for bit.

  Args:
    levels: `(*tables, n)`.

  Returns:
    `(scale, whole)`, shapes `(*tables, 1)` and `(*tables, n)`, the second
    int64: `levels` is the rounded product. None if there is no such scale, or
    the tables are those of another axis than the last.
  """
  alpha = scale_of(levels)
  if alpha is None:
    return None
  table = levels.reshape(-1, levels.shape[-1])
  about = np.broadcast_to(np.asarray(alpha), (len(table),))[:, None]
  # By way of integers, which have no −0: a table with one gets no scale.
  whole = np.rint(table / about).astype(np.int64).astype(levels.dtype)
  with np.errstate(divide='ignore', invalid='ignore'):
    candidates = np.concatenate([about, table / whole], axis=1)
    scale = [_exact(*row) for row in zip(table, whole, candidates, strict=True)]
  if any(one is None for one in scale):
    return None
  return (
    np.asarray(scale, levels.dtype).reshape(*levels.shape[:-1], 1),
    whole.astype(np.int64).reshape(levels.shape),
  )


def _exact(table: np.ndarray, whole: np.ndarray, candidates: Any) -> Any:
  # XLA takes numbers below the smallest normal one for 0.
  tiny = jnp.finfo(table.dtype).tiny
  for scale in candidates[np.isfinite(candidates) & (candidates >= tiny)]:
    if np.array_equal(_bits(scale * whole), _bits(table)):
      return scale
  return None


def _bits(values: np.ndarray) -> np.ndarray:
  return values.view(f'u{values.itemsize}')
