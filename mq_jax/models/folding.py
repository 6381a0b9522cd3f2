"""Folding scales: quantized kernels become integers, norms take the scales.

Where a layer with a kernel α · K gives α y, the one with the integers K gives
y. The norm behind it,

  (αy − mean) / √(var + ε) · scale = (y − mean/α) / √(var + ε) · (α · scale),

gives the same with another mean and scale, exactly and for every α > 0. The
variance stays that of αy: this is for inference, not for further training.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.selection import named_leaves, replace

Array = jax.Array
LARGEST = 255


def fold_scales(
  params: Any, batch_stats: Any, scales: Mapping[str, Any]
) -> tuple[Any, Any]:
  """Takes the scales out of quantized kernels, into the norms behind them.

  The norm of `conv1/kernel` is `norm1`, that of any other layer has its name
  and `_norm`, as `stem_norm`. A ReLU or pooling may stand between: they commute
  with positive scales. A kernel stays as it is if there is no such norm, or if
  it is not α times integers from −255 to 255. Values decide: not under jit.

  Args:
    params: Pytree of arrays, quantized: `TrainStep.quantized(state)`.
    batch_stats: Pytree with the norms' `mean`.
    scales: Path of a kernel to its α (`scale_of`): a number, or one for each
      output channel, shape `(channels,)`.

  Returns:
    `(params, batch_stats)` of the same results, with kernels of integers in
    their floating point dtype. A bias beside such a kernel is divided too.

  Raises:
    ValueError: If a path is not one of `params`, or a scale is not positive and
      finite or has another shape.
  """
  leaves, stats = named_leaves(params), named_leaves(batch_stats)
  for path, scale in scales.items():
    if path not in leaves:
      raise ValueError(
        f'{path!r} is no path of a parameter: {", ".join(leaves)}.'
      )
    alpha = _checked(scale, path, leaves[path])
    whole = _integers(np.asarray(leaves[path]) / alpha)
    gain, mean = (f'{_norm(path)}/{name}' for name in ('scale', 'mean'))
    if whole is None or gain not in leaves or mean not in stats:
      continue
    leaves[path] = jnp.asarray(whole)
    leaves[gain] = leaves[gain] * alpha
    stats[mean] = stats[mean] / alpha
    bias = path.removesuffix('kernel') + 'bias'
    if bias in leaves:
      leaves[bias] = leaves[bias] / alpha
  return replace(params, leaves), replace(batch_stats, stats)


def scale_of(levels: Array) -> Array | None:
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
  steps = np.maximum(np.rint(largest / least), 1)
  alpha = np.where(largest > 0, largest / steps, 1).astype(table.dtype)
  whole = _integers(table / alpha[..., None])
  return None if whole is None else jnp.asarray(alpha)


def _norm(path: str) -> str:
  path = re.sub(r'(^|/)conv(\d+)/kernel$', r'\1norm\2', path)
  return re.sub(r'/kernel$', '_norm', path)


def _checked(scale: Any, path: str, kernel: Array) -> np.ndarray:
  alpha = np.asarray(scale, kernel.dtype)
  if alpha.shape not in ((), kernel.shape[-1:]):
    raise ValueError(
      f'the scale of {path} has shape {alpha.shape}: it must be a number or'
      f' have shape {kernel.shape[-1:]}.'
    )
  if not np.all((alpha > 0) & np.isfinite(alpha)):
    raise ValueError(f'the scale of {path} must be positive, not {scale}.')
  return alpha


def _integers(ratio: np.ndarray) -> np.ndarray | None:
  # jit may sum up a scale in another order, some ten units in the last place
  # apart. The bound is for dtypes too narrow to tell integers from others.
  eps = 64 * float(jnp.finfo(ratio.dtype).eps)
  whole = np.rint(ratio)
  error = np.abs(ratio - whole) <= min(eps * np.max(np.abs(whole)), 1e-3)
  fits = np.all(error & (np.abs(whole) <= LARGEST))
  return whole if fits else None
