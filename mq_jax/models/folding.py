"""Folding: kernels become integers, norms a scale and a shift.

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

from mq_jax.models.batch_norm import BatchNorm
from mq_jax.packing.levels import integers
from mq_jax.selection import named_leaves, nested, replace

Array = jax.Array


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
    whole = integers(np.asarray(leaves[path]) / alpha)
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


def fold_norms(
  params: Any, batch_stats: Any, epsilon: float = BatchNorm.epsilon
) -> Any:
  """Takes the statistics of batch norms into their scale and shift.

    (x − mean) / √(var + ε) · scale + bias = x · scale' + shift

  Args:
    params: Nested dicts, with the norms' `scale` and `bias`.
    batch_stats: Nested dicts, with their `mean` and `var`.
    epsilon: Of the norms.

  Returns:
    Nested dicts of parameters, with `scale` and `shift` where a norm had
    `scale` and `bias`: `BatchNorm` takes them without `batch_stats`.

  Raises:
    ValueError: If a norm of `batch_stats` is none of `params`.
  """
  leaves, stats = named_leaves(params), named_leaves(batch_stats)
  # The folder of a norm, '' where the network is nothing but one.
  for norm in [
    path.removesuffix('mean')
    for path in stats
    if path.rpartition('/')[2] == 'mean'
  ]:
    missing = {f'{norm}scale', f'{norm}bias'} - leaves.keys()
    if missing:
      raise ValueError(f'there are no parameters {sorted(missing)}.')
    scale, bias = leaves[f'{norm}scale'], leaves.pop(f'{norm}bias')
    gain, offset, mean, var = (
      np.asarray(leaf, np.float64)
      for leaf in (scale, bias, stats[f'{norm}mean'], stats[f'{norm}var'])
    )
    factor = gain / np.sqrt(var + epsilon)
    leaves[f'{norm}scale'] = jnp.asarray(factor, scale.dtype)
    leaves[f'{norm}shift'] = jnp.asarray(offset - factor * mean, scale.dtype)
  return nested(leaves)


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
