"""ReSTE, the rectified straight-through estimator."""

import jax
import jax.numpy as jnp

from mq_jax.checks import check_at_least, check_positive
from mq_jax.estimators.base import GradientEstimator
from mq_jax.estimators.slopes.base import Position, slope_rule
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def reste(
  steps: int, *, power: float = 3.0, clip: float = 1.5, secant: float = 0.1
) -> GradientEstimator:
  """Multiplies g_ste by the slope of the power function sign(x) |x|^(1/o).

  The slope is (1/o) |x|^((1 − o)/o), x the distance from a threshold. Within
  `secant` of the threshold it is that of the secant, secant^(1/o) / secant, and
  beyond `clip` it is 0. o grows from 1, the straight-through rule, to `power`:
  o = 1 + (1 − cos(½π progress)) (power − 1).

  Args:
    steps: Number of weight updates of the schedule.
    power: Last o, at least 1.
    clip: |x| beyond which the slope is 0.
    secant: |x| below which the slope is constant.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If `steps`, `clip` or `secant` is not positive, or `power` is
      below 1.

  References:
    Wu, Zheng, Liu, Zheng, `Estimator Meets Equilibrium Perspective: A Rectified
    Straight Through Estimator for Binary Neural Networks Training
    <https://arxiv.org/abs/2308.06689>`_, 2023, eqs. (5) to (8), and the
    authors' code
  """
  check_positive(clip=clip, secant=secant)
  check_at_least(1, power=power)

  def slope(position: Position) -> Array:
    grown = 1 - jnp.cos(jnp.pi / 2 * position.progress)
    o = 1 + grown * (power - 1)
    size = jnp.abs(position.distance)
    # The secant's end keeps the power finite where it is not used.
    curve = jnp.maximum(size, secant) ** ((1 - o) / o) / o
    inner = secant ** (1 / o) / secant
    return jnp.where(size > clip, 0, jnp.where(size > secant, curve, inner))

  return slope_rule(slope, steps=steps)
