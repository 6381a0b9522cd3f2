"""The gradient of RBNN, rotated binary neural networks."""

import math

import jax
import jax.numpy as jnp

from mq_jax.estimators.base import GradientEstimator
from mq_jax.estimators.slopes.base import Position, slope_rule
from mq_jax.estimators.slopes.ede import check_schedule, temperature
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def rbnn(
  steps: int, *, start: float = 0.01, end: float = 10.0
) -> GradientEstimator:
  """Multiplies g_ste by max(0, k (√2 T − T² |x|)), a triangle around x = 0.

  x is the distance from a threshold; T and k follow the schedule of `ede`. The
  rotation of the weights in the paper is not a part of this rule.

  Args:
    steps: Number of weight updates of the schedule.
    start: First T.
    end: Last T.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If `steps`, `start` or `end` is not positive, or `start` is
      above `end`.

  References:
    Lin et al., `Rotated Binary Neural Network
    <https://arxiv.org/abs/2009.13055>`_, 2020, eqs. (15) to (17), and the
    authors' code
  """
  check_schedule(start, end)

  def slope(position: Position) -> Array:
    t, k = temperature(start, end, position.progress)
    return k * jnp.maximum(
      math.sqrt(2) * t - t**2 * jnp.abs(position.distance), 0
    )

  return slope_rule(slope, steps=steps)
