"""Folding: kernels become integers, norms become a scale and a shift.

A layer with a kernel α · K returns α y if the same layer with the integers K
returns y. The norm after the layer,

  (αy − mean) / √(var + ε) · scale = (y − mean/α) / √(var + ε) · (α · scale),

returns the same result with another mean and scale, exactly and for every
α > 0. The variance is still the variance of αy, so a folded network is for
inference, not for further training.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.host import on_host
from mq_jax.models.batch_norm import BatchNorm
from mq_jax.packing.levels import integers
from mq_jax.selection import named_leaves, nested, replace

Array = jax.Array


def fold_scales(
  params: Any, batch_stats: Any, scales: Mapping[str, Any]
) -> tuple[Any, Any]:
  """Moves the scales of quantized kernels into the norms after them.

  The norm of `conv1/kernel` is `norm1`; the norm of any other layer has the
  layer's name and `_norm`, such as `stem_norm`. The norm must follow the layer,
  which names alone do not show. ReLU and pooling between them are allowed,
  because they commute with positive scales. A kernel without such a norm does
  not change, nor does a kernel that is not α times integers from −255 to 255.
  The function reads values, so it does not run under jit.

  Args:
    params: Pytree of quantized arrays: `TrainStep.quantized(state)`.
    batch_stats: Pytree with the `mean` of the norms.
    scales: Path of a kernel to its α (`scale_of`): a number, or one number per
      output channel, shape `(channels,)`.

  Returns:
    `(params, batch_stats)` that give the same results, with kernels of integers
    in their floating point dtype. The bias of such a layer is divided by α too.

  Raises:
    ValueError: If `params` lacks a path, or a scale has another shape or is not
      positive and finite.
  """
  leaves, stats = named_leaves(params), named_leaves(batch_stats)
  for path, scale in scales.items():
    if path not in leaves:
      raise ValueError(
        f'{path!r} is not a path of params. Use one of {", ".join(leaves)}.'
      )
    alpha = _checked_scale(scale, path, leaves[path])
    kernel = integers(np.asarray(on_host(leaves[path])) / alpha)
    gain, mean = (f'{norm_of(path)}/{name}' for name in ('scale', 'mean'))
    if kernel is None or gain not in leaves or mean not in stats:
      continue
    leaves[path] = jnp.asarray(kernel)
    leaves[gain] = leaves[gain] * alpha
    stats[mean] = stats[mean] / alpha
    bias = path.removesuffix('kernel') + 'bias'
    if bias in leaves:
      leaves[bias] = leaves[bias] / alpha
  return replace(params, leaves), replace(batch_stats, stats)


def fold_norms(
  params: Any, batch_stats: Any, epsilon: float = BatchNorm.epsilon
) -> Any:
  """Folds the statistics of batch norms into a scale and a shift.

    (x − mean) / √(var + ε) · scale + bias = x · scale' + shift

  Args:
    params: Nested dicts with the `scale` and `bias` of the norms.
    batch_stats: Nested dicts with the `mean` and `var` of the norms.
    epsilon: ε of the norms: `labnet` has 1e-4.

  Returns:
    Nested dicts of parameters, where each norm has `scale` and `shift` instead
    of `scale` and `bias`. `BatchNorm` needs no `batch_stats` for them.

  Raises:
    ValueError: If `params` lacks the `scale` or `bias` of a norm.
  """
  leaves, stats = named_leaves(params), named_leaves(batch_stats)
  # The path is '' if the network is a single norm.
  for norm in [
    path.removesuffix('mean')
    for path in stats
    if path.rpartition('/')[2] == 'mean'
  ]:
    missing = {f'{norm}scale', f'{norm}bias'} - leaves.keys()
    if missing:
      raise ValueError(
        f'params lacks {sorted(missing)} of a norm in batch_stats. Use the two'
        ' of one network whose norms are not folded.'
      )
    scale, bias = leaves[f'{norm}scale'], leaves.pop(f'{norm}bias')
    gain, offset, mean, var = (
      np.asarray(on_host(leaf), np.float64)
      for leaf in (scale, bias, stats[f'{norm}mean'], stats[f'{norm}var'])
    )
    factor = gain / np.sqrt(var + epsilon)
    leaves[f'{norm}scale'] = jnp.asarray(factor, scale.dtype)
    leaves[f'{norm}shift'] = jnp.asarray(offset - factor * mean, scale.dtype)
  return nested(leaves)


def norm_of(path: str) -> str:
  """Returns the path of the norm after the layer of a kernel, if it has one."""
  path = re.sub(r'(^|/)conv(\d+)/kernel$', r'\1norm\2', path)
  return re.sub(r'/kernel$', '_norm', path)


def _checked_scale(scale: Any, path: str, kernel: Array) -> np.ndarray:
  alpha = np.asarray(scale, kernel.dtype)
  if alpha.shape not in ((), kernel.shape[-1:]):
    raise ValueError(
      f'The scale of {path} has shape {alpha.shape}. It must be a number or'
      f' have shape {kernel.shape[-1:]}.'
    )
  if not np.all((alpha > 0) & np.isfinite(alpha)):
    raise ValueError(
      f'The scale of {path} must be positive and finite, not {scale}.'
    )
  return alpha
