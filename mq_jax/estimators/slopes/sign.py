"""Slopes of smooth sign functions: ApproxSign and SwishSign."""

import jax
import jax.numpy as jnp

from mq_jax.checks import check_positive
from mq_jax.estimators.base import GradientEstimator
from mq_jax.estimators.slopes.base import Position, slope_rule
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def approx_sign() -> GradientEstimator:
  """Multiplies g_ste by max(0, 2 − 2 |x|), x the distance from a threshold.

  This is the slope of a piecewise quadratic sign function.

  Returns:
    A `GradientEstimator`.

  References:
    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, 2018, eq.
    (9); `larq.quantizers.approx_sign`
  """
  return slope_rule(
    lambda position: jnp.maximum(2 - 2 * jnp.abs(position.distance), 0)
  )


@prints_call
def swish_sign(*, beta: float = 5.0) -> GradientEstimator:
  """Multiplies g_ste by β (2 − βx tanh(βx/2)) / (1 + cosh(βx)).

  x is the distance from a threshold. The slope is negative beyond
  |βx| ≈ 2.4, so weights far from the threshold move in the other direction.

  Args:
    beta: β, the steepness.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If `beta` is not positive.

  References:
    Darabi, Belbahri, Courbariaux, Nia, `BNN+: Improved Binary Network Training
    <https://arxiv.org/abs/1812.11800>`_, 2018; `larq.quantizers.swish_sign`
  """
  check_positive(beta=beta)

  def slope(position: Position) -> Array:
    bx = beta * position.distance
    # 1 / (1 + cosh(x)) without the overflow of cosh.
    decay = jnp.exp(-jnp.abs(bx))
    over_cosh = 2 * decay / (1 + decay) ** 2
    return beta * (2 - bx * jnp.tanh(bx / 2)) * over_cosh

  return slope_rule(slope)
