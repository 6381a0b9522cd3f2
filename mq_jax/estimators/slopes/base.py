"""Rules that multiply the straight-through gradient by a slope of W̃."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.checks import check_count
from mq_jax.estimators.base import GradientEstimator, Signals
from mq_jax.precision import widened

Array = jax.Array


class Position(NamedTuple):
  """The inputs of a slope for one leaf.

  Attributes:
    g: The straight-through gradient.
    distance: x, the distance of the weight from its threshold, in float32 or
      wider (`Signals.distance`).
    cell: Distance between the two levels around that threshold.
    progress: Share of the schedule that is done, from 0 to 1.
  """

  g: Array
  distance: Array
  cell: Array
  progress: Array

  @property
  def error(self) -> Array:
    """Rounding error: W̃ on the scale of the levels, minus its level."""
    half = self.cell / 2
    return jnp.where(
      self.distance >= 0, self.distance - half, self.distance + half
    )

  @property
  def relative(self) -> Array:
    """Distance in half cells: −1 and 1 at the two levels."""
    return 2 * self.distance / jnp.where(self.cell > 0, self.cell, 1)


def slope_rule(
  slope: Callable[[Position], Array], *, steps: int = 1
) -> GradientEstimator:
  """Makes the estimator g_W̃ = g_ste · slope, without a φ and without a state.

  Args:
    slope: Slope of the smooth function that replaces Q, relative to that of the
      straight-through rule.
    steps: Number of weight updates after which `Position.progress` is 1.

  Returns:
    A `GradientEstimator`. Its `apply` raises `ValueError` if the quantizer of a
    leaf does not round to the nearest level.

  Raises:
    ValueError: If `steps` is not a positive integer.
  """
  check_count('steps', steps)

  def apply(
    phi: Any, signals: Signals, state: Any
  ) -> tuple[dict[str, Array], Any]:
    return {
      path: (g * slope(position_at(signals, path, steps))).astype(g.dtype)
      for path, g in signals.g_ste.items()
    }, state

  return GradientEstimator(
    init=lambda key, leaves: (),
    init_state=lambda key, leaves: (),
    apply=apply,
    factor=lambda phi: {},
  )


def position_at(signals: Signals, path: str, steps: int = 1) -> Position:
  """Returns the inputs of the slope of one leaf.

  Raises:
    ValueError: If the quantizer of the leaf does not round to the nearest
      level.
  """
  if path not in signals.distance:
    raise ValueError(
      f'The estimator reads the distance of {path} from a threshold, but its'
      ' quantizer does not round to the nearest level. Use mq_jax.dorefa() or'
      ' mq_jax.bwn(), or another quantizer that sets `unrounded`, or the'
      ' estimator mq_jax.ste().'
    )
  return Position(
    g=signals.g_ste[path],
    distance=widened(signals.distance[path]),
    cell=widened(signals.cell[path]),
    progress=jnp.minimum(jnp.asarray(signals.step) / steps, 1.0),
  )
