"""EDE, the error decay estimator of IR-Net."""

import jax
import jax.numpy as jnp

from mq_jax.checks import check_positive, check_rising
from mq_jax.derivatives import sech_squared
from mq_jax.estimators.base import GradientEstimator
from mq_jax.estimators.slopes.base import Position, slope_rule
from mq_jax.printing import prints_call

Array = jax.Array


def check_schedule(start: float, end: float) -> None:
  """Raises `ValueError` unless 0 < `start` ≤ `end`."""
  check_positive(start=start, end=end)
  check_rising(start, end, 'T')


def temperature(
  start: float, end: float, progress: Array
) -> tuple[Array, Array]:
  """Returns T, which grows log-linearly, and k = max(1/T, 1)."""
  t = start * (end / start) ** progress
  return t, jnp.maximum(1 / t, 1)


@prints_call
def ede(
  steps: int, *, start: float = 0.1, end: float = 10.0
) -> GradientEstimator:
  """Multiplies g_ste by k T (1 − tanh²(T x)), x the distance from a threshold.

  T grows from `start` to `end` log-linearly, and k = max(1/T, 1): the rule
  begins near the straight-through rule and ends near the derivative of sign.
  In IR-Net x is a standardized weight: use `methods.libra()`.

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
    Qin et al., `Forward and Backward Information Retention for Accurate Binary
    Neural Networks <https://arxiv.org/abs/1909.10788>`_, 2020, eqs. (9) to
    (11), and the authors' code
  """
  check_schedule(start, end)

  def slope(position: Position) -> Array:
    t, k = temperature(start, end, position.progress)
    return k * t * sech_squared(t * position.distance)

  return slope_rule(slope, steps=steps)
