"""Batch normalisation that keeps the same running variance as PyTorch.

Flax stores the biased variance of the batch, PyTorch the unbiased variance. The
authors of MetaQuant trained with the unbiased variance, so comparable networks
must do the same.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mq_jax.materialize import materialize

Array = jax.Array


class BatchNorm(nn.Module):
  """Normalises the last axis by the statistics of all other axes.

  Training normalises by the mean and the biased variance of the batch, and
  moves the running mean and the running *unbiased* variance towards those of
  the batch. Intermediate results are at least float32.

  The collection `params` holds `scale` and `bias`, `batch_stats` holds `mean`
  and `var`, all of shape `(channels,)` and of `dtype`, or float32 if that is
  wider. Training has a custom backward rule, which supports reverse-mode
  differentiation only (`jax.grad`, not `jax.jvp`).

  Parameters from `fold_norms` are `scale` and `shift`. They need no statistics:
  the result is scale · x + shift.

  Attributes:
    dtype: Dtype of the result.
    momentum: Share of the old running statistics that a step keeps, 0 to 1.
      PyTorch counts the other share: its default of 0.1 is 0.9 here.
    epsilon: Constant added to the variance.

  References:
    Ioffe, Szegedy. Batch Normalization: Accelerating Deep Network Training by
    Reducing Internal Covariate Shift. 2015. https://arxiv.org/abs/1502.03167
  """

  dtype: Any = jnp.float32
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(
    self,
    x: Array,
    train: bool,
    *,
    shortcut: Array | None = None,
    relu: bool = False,
    top: float = math.inf,
  ) -> Array:
    """Normalises a batch, adds a shortcut and applies a ReLU.

    Args:
      x: Batch, `(..., channels)`.
      train: If True, take the statistics from `x` and update the running
        statistics; `apply` then needs `mutable=['batch_stats']`.
      shortcut: Array of the shape of `x`, added to the normalised batch.
      relu: If True, apply a ReLU last.
      top: Positive number at which the ReLU clips, such as 6 for ReLU6. The
        gradient is 1 strictly between 0 and `top`, and 0 elsewhere.

    Returns:
      Array of the shape of `x`, in `dtype`.

    Raises:
      ValueError: If `train` is True and `x` has fewer than two values per
        channel or the parameters are folded.
    """
    wide = jnp.promote_types(jnp.float32, self.dtype)
    shape = (x.shape[-1],)
    clip = top if relu else None
    scale = self.param('scale', nn.initializers.ones_init(), shape, wide)
    if self.has_variable('params', 'shift'):
      if train:
        raise ValueError(
          'This norm is folded and cannot be trained. Use the parameters from'
          ' before fold_norms.'
        )
      shift: Array = self.get_variable('params', 'shift')
      return _affine(clip, self.dtype, x, None, scale, shift, shortcut)
    bias = self.param('bias', nn.initializers.zeros_init(), shape, wide)
    stats = 'batch_stats'
    running_mean = self.variable(stats, 'mean', jnp.zeros, shape, wide)
    running_var = self.variable(stats, 'var', jnp.ones, shape, wide)

    if not train:
      factor = scale * lax.rsqrt(running_var.value + self.epsilon)
      return _affine(
        clip, self.dtype, x, running_mean.value, factor, bias, shortcut
      )
    count = math.prod(x.shape[:-1])
    if count < 2:
      raise ValueError(
        f'A batch of shape {x.shape} has {count} value per channel and no'
        ' variance. Train on larger batches.'
      )
    y, mean, var = _normalise(
      clip, self.dtype, self.epsilon, x, scale, bias, shortcut
    )
    # The batch of `init` only determines shapes; it is not a training batch.
    if not self.is_initializing():
      unbiased = var * (count / (count - 1))
      running_mean.value = self._move(running_mean.value, mean)
      running_var.value = self._move(running_var.value, unbiased)
    return y

  def _move(self, old: Array, new: Array) -> Array:
    return self.momentum * old + (1 - self.momentum) * new


def batch_statistics(
  net: nn.Module, params: Any, batch_stats: Any, images: Array
) -> Any:
  """Returns the statistics of one batch, without the running statistics.

  If the weights have changed, for example by a projection at the end of
  training, the average of these statistics over batches replaces the running
  statistics. No gradients flow through the statistics.

  Args:
    net: Network whose `BatchNorm` layers have the default momentum.
    params: Parameters of the network.
    batch_stats: Statistics of the network; their values are ignored.
    images: Batch of images.

  Returns:
    Mean and unbiased variance of each channel, structured as `batch_stats`.
  """
  zeros = jax.tree.map(jnp.zeros_like, batch_stats)
  _, new = net.apply(
    {'params': params, 'batch_stats': zeros},
    images,
    train=True,
    mutable=['batch_stats'],
  )
  share = 1 - BatchNorm.momentum
  return jax.tree.map(
    lambda moved: lax.stop_gradient(moved / share), new['batch_stats']
  )


def _affine(
  clip: float | None,
  dtype: Any,
  x: Array,
  mean: Array | None,
  factor: Array,
  bias: Array,
  shortcut: Array | None,
) -> Array:
  """Returns (x − mean) · factor + bias + shortcut, from 0 to `clip`.

  None as `clip` means that there is no ReLU.
  """
  x = x.astype(factor.dtype)
  if mean is not None:
    # Subtracting mean · factor from the bias instead would cancel digits.
    x = x - _last(mean, x)
  y = x * _last(factor, x) + _last(bias, x)
  if shortcut is not None:
    y = y + shortcut.astype(y.dtype)
  if clip is not None:
    # Both forms have the same values. The gradient of a minimum is 1/2 where
    # both numbers are equal.
    y = jnp.maximum(y, 0) if math.isinf(clip) else _clipped(y, clip)
  return y.astype(dtype)


def _clipped(y: Array, top: float) -> Array:
  # The comparisons are False for NaN, which stays NaN.
  return jnp.where(y <= 0, 0, jnp.where(y >= top, top, y))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _normalise(
  clip: float | None, dtype: Any, epsilon: float, *inputs: Any
) -> tuple[Array, Array, Array]:
  """Returns the result, and the mean and biased variance of the batch.

  `inputs` are x, scale, bias and shortcut, as in `_normalise_fwd`.
  """
  return _normalise_fwd(clip, dtype, epsilon, *inputs)[0]


def _normalise_fwd(
  clip: float | None,
  dtype: Any,
  epsilon: float,
  x: Array,
  scale: Array,
  bias: Array,
  shortcut: Array | None,
) -> tuple[tuple[Array, Array, Array], tuple[Any, ...]]:
  wide, axes = x.astype(scale.dtype), tuple(range(x.ndim - 1))
  mean = jnp.mean(wide, axis=axes)
  # The variance takes a second pass, because E[x²] − E[x]² loses all digits if
  # |mean| ≫ deviation.
  var = jnp.mean(jnp.square(wide - _last(mean, x)), axis=axes)
  inverse = lax.rsqrt(var + epsilon)
  y = materialize(
    functools.partial(_affine, clip, dtype),
    x,
    mean,
    scale * inverse,
    bias,
    shortcut,
    never=var[0] < 0,
  )
  # The backward pass needs the dtype of the shortcut, not the shortcut.
  like = None if shortcut is None else jnp.zeros((), shortcut.dtype)
  kept = None if clip is None else y
  residuals = x, mean, inverse, scale, kept, like
  return (y, mean, var), residuals


def _normalise_bwd(
  clip: float | None,
  _dtype: Any,
  _epsilon: float,
  residuals: Any,
  cotangents: Any,
) -> tuple[Array, Array, Array, Array | None]:
  x, mean, inverse, scale, y, like = residuals
  g, g_mean, g_var = cotangents
  axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
  g = g.astype(scale.dtype)
  if clip is not None:
    inside = y > 0 if math.isinf(clip) else (y > 0) & (y < clip)
    g = jnp.where(inside, g, 0)
  centred = x.astype(scale.dtype) - _last(mean, x)
  normal = centred * _last(inverse, x)
  d_bias = jnp.sum(g, axis=axes)
  d_scale = jnp.sum(g * normal, axis=axes)
  dx = _last(scale * inverse, x) * (
    g - _last(d_bias / count, x) - normal * _last(d_scale / count, x)
  )
  # The gradient through the returned statistics; zero in training.
  dx = dx + _last(g_mean / count, x) + centred * _last(2 * g_var / count, x)
  d_shortcut = None if like is None else g.astype(like.dtype)
  return dx.astype(x.dtype), d_scale, d_bias, d_shortcut


_normalise.defvjp(_normalise_fwd, _normalise_bwd)


def _last(channels: Array, x: Array) -> Array:
  """Returns `(channels,)` as the last axis, at the rank of `x`."""
  return lax.expand_dims(channels, range(x.ndim - 1))
