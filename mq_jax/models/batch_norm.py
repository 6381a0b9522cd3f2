"""Batch normalisation that keeps the running variance PyTorch keeps.

Flax stores the biased variance of the batch, PyTorch the unbiased one. The
authors' networks were trained with the second, and so must ours be if the two
are to be compared.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array


class BatchNorm(nn.Module):
  """Normalises the last axis by the statistics of all the others.

  Training normalises by the batch's mean and biased variance, and moves the
  running mean and the running *unbiased* variance towards the batch's. What
  is computed on the way is never narrower than float32.

  The collection `params` has `scale` and `bias`, `batch_stats` has `mean` and
  `var`, each of shape `(channels,)` and of `dtype`, or float32 where that is
  wider.

  Attributes:
    dtype: Of the result.
    momentum: Share of the old running statistics that one step keeps, 0 to 1.
      PyTorch counts the other share: its default of 0.1 is our 0.9.
    epsilon: Added to the variance.

  References:
    Ioffe, Szegedy. Batch Normalization: Accelerating Deep Network Training by
    Reducing Internal Covariate Shift. 2015. https://arxiv.org/abs/1502.03167
  """

  dtype: Any = jnp.float32
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Normalises a batch.

    Args:
      x: `(..., channels)`.
      train: Whether to take the statistics from `x` and to update the running
        ones; `apply` then needs `mutable=['batch_stats']`.

    Returns:
      Of the shape of `x`, in `dtype`.

    Raises:
      ValueError: If `train`, and `x` has fewer than two values a channel.
    """
    wide = jnp.promote_types(jnp.float32, self.dtype)
    shape = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones_init(), shape, wide)
    bias = self.param('bias', nn.initializers.zeros_init(), shape, wide)
    stats = 'batch_stats'
    running_mean = self.variable(stats, 'mean', jnp.zeros, shape, wide)
    running_var = self.variable(stats, 'var', jnp.ones, shape, wide)

    x = x.astype(wide)
    if train:
      mean, var, unbiased = _moments(x)
      # `init` shows the shapes; its batch is not one of the training.
      if not self.is_initializing():
        running_mean.value = self._move(running_mean.value, mean)
        running_var.value = self._move(running_var.value, unbiased)
    else:
      mean, var = running_mean.value, running_var.value

    factor = scale * lax.rsqrt(var + self.epsilon)
    # The mean goes first: folded into the bias, it cancels in float32.
    normal = (x - _last(mean, x)) * _last(factor, x) + _last(bias, x)
    return normal.astype(self.dtype)

  def _move(self, old: Array, new: Array) -> Array:
    return self.momentum * old + (1 - self.momentum) * new


def _moments(x: Array) -> tuple[Array, Array, Array]:
  """Mean, biased and unbiased variance of each channel, `(channels,)` each."""
  count = math.prod(x.shape[:-1])
  if count < 2:
    raise ValueError(
      f'a batch of shape {x.shape} has {count} value a channel, and no'
      ' variance: train on larger batches'
    )
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axis=axes)
  # In two passes: E[x²] − E[x]² loses all digits where |mean| ≫ deviation.
  var = jnp.mean(jnp.square(x - _last(mean, x)), axis=axes)
  return mean, var, var * (count / (count - 1))


def _last(channels: Array, x: Array) -> Array:
  """`(channels,)` as the last axis of an array of the rank of `x`."""
  return lax.expand_dims(channels, range(x.ndim - 1))
