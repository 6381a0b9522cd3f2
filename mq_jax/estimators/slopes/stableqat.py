"""StableQAT: the slope of a rotated and damped Fourier series of rounding."""

import math

import jax
import jax.numpy as jnp

from mq_jax.checks import check_at_least
from mq_jax.estimators.base import GradientEstimator
from mq_jax.estimators.slopes.base import Position, slope_rule
from mq_jax.printing import prints_call

Array = jax.Array
# Amplitude at which the slope at a level is infinite.
_POLE = 1 / (math.sqrt(2) * math.pi)


@prints_call
def stableqat(*, amplitude: float = 0.21) -> GradientEstimator:
  """Multiplies g_ste by (1 − S)/(1 + S), S = √2 π A cos(π f).

  f is the distance of the weight from the nearest point of the grid of its
  cell, in cells: 0 at a level, ½ at a threshold. The slope is 1 at a threshold
  and small at a level. This is the series with one term, as in the authors'
  configurations.

  Args:
    amplitude: A, at least 0 and below 1/(√2 π) = 0.225; 0 is the
      straight-through rule.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If `amplitude` is out of range.

  References:
    Chen et al., `StableQAT <https://arxiv.org/abs/2601.19320>`_, 2026, and the
    authors' code
  """
  check_at_least(0, amplitude=amplitude)
  if not amplitude < _POLE:
    raise ValueError(
      f'amplitude={amplitude!r} must be below 1/(√2 π) = {_POLE:.4f}.'
    )

  def slope(position: Position) -> Array:
    # A threshold is in the middle of a cell.
    from_threshold = position.relative / 2
    offset = from_threshold - jnp.floor(from_threshold) - 0.5
    s = amplitude / _POLE * jnp.cos(jnp.pi * offset)
    return (1 - s) / (1 + s)

  return slope_rule(slope)
