"""AdaSTE, the adaptive straight-through estimator."""

import jax
import jax.numpy as jnp

from mq_jax.checks import check_at_least
from mq_jax.estimators.base import GradientEstimator
from mq_jax.estimators.slopes.base import Position, slope_rule
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def adaste(
  *, largest: float = 0.5, least_gradient: float = 1e-3, margin: float = 1e-6
) -> GradientEstimator:
  """Multiplies g_ste by a slope that depends on the signs of W̃ and g.

  A weight that the gradient moves away from its threshold has the slope 0: its
  code is as the gradient wants it. A weight that moves towards the threshold
  has the slope min(1/|θ|, `largest`), θ its distance in half cells. Where the
  gradient or θ is near 0, the slope is 1. With weights between the levels, such
  as those of `dorefa(1)`, |θ| is at most 1 and the slope towards the threshold
  is `largest`; the authors start at |θ| = 10.

  Args:
    largest: Largest slope of a weight that moves towards its threshold.
    least_gradient: Size of g_ste below which the slope is 1.
    margin: |θ| below which the slope is 1.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If an argument is negative.

  References:
    Le, Høier, Lin, Zach, `AdaSTE: An Adaptive Straight-Through Estimator to
    Train Binary Neural Networks <https://arxiv.org/abs/2112.02880>`_, 2022, and
    the rule in versions of the authors' code with a constant β of at least 100
    (`FenBPOpt`), whose loss receives the levels, as here. Their last version
    lets β grow from 0.01 to 200: `mq_jax.methods.annealed_adaste`.
  """
  check_at_least(
    0, largest=largest, least_gradient=least_gradient, margin=margin
  )

  def slope(position: Position) -> Array:
    theta, g = position.relative, position.g
    decided = (jnp.abs(theta) > margin) & (jnp.abs(g) > least_gradient)
    towards = jnp.sign(theta) == jnp.sign(g)
    size = jnp.maximum(jnp.abs(theta), margin)
    safe = jnp.where(size > 0, size, 1)
    return jnp.where(
      decided, jnp.where(towards, jnp.minimum(1 / safe, largest), 0), 1
    )

  return slope_rule(slope)
