"""DSQ: differentiable soft quantization."""

from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.checks import check_at_least, check_number
from mq_jax.derivatives import sech_squared
from mq_jax.estimators.base import GradientEstimator, Leaves, Signals
from mq_jax.estimators.slopes.base import Position, position_at
from mq_jax.precision import widened
from mq_jax.printing import prints_call

Array = jax.Array
# The slope and its inverse stay finite between these values of α.
_LEAST, _LARGEST = 1e-3, 0.5


def _steepness(alpha: Array) -> Array:
  return jnp.log(2 / alpha - 1) / 2


def soft_value(alpha: Array, x: Array) -> Array:
  """Returns the soft level tanh(c x) / (1 − α), c = ½ ln(2/α − 1).

  Args:
    alpha: α, the distance of the curve from its level at the level.
    x: Distance from the threshold in half cells.
  """
  return jnp.tanh(_steepness(alpha) * x) / (1 - alpha)


@prints_call
def dsq(*, alpha: float = 0.2, learning_rate: float = 0.0) -> GradientEstimator:
  """Multiplies g_ste by the slope of a tanh per cell.

  The soft level is s tanh(k (u − m)) with s = 1/(1 − α) and k = ln(2/α − 1)/Δ,
  in half cells: u − m is the distance from the threshold and Δ the cell. A
  smaller α is a steeper curve. The state is α by path, which descends the
  gradient of the loss at the soft levels, Σ g_hat · ∂(soft level)/∂α, if
  `learning_rate` is not 0; α stays in [1e-3, 0.5].

  Args:
    alpha: First α, in [1e-3, 0.5].
    learning_rate: Step size of α.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If an argument is out of range.

  References:
    Gong et al., `Differentiable Soft Quantization
    <https://arxiv.org/abs/1908.05033>`_, 2019, eqs. (3) to (10). The loss
    receives the hard levels, as in the authors' forward pass.
  """
  check_number(alpha=alpha)
  if not _LEAST <= alpha <= _LARGEST:
    raise ValueError(f'alpha={alpha!r} must be in [{_LEAST}, {_LARGEST}].')
  check_at_least(0, learning_rate=learning_rate)

  def init_state(key: Array, leaves: Leaves) -> dict[str, Array]:
    del key  # The state has no random part.
    return {
      path: jnp.asarray(alpha, widened(w).dtype) for path, w in leaves.items()
    }

  def slope(position: Position, alpha: Array) -> Array:
    c = _steepness(alpha)
    return c * sech_squared(c * position.relative) / (1 - alpha)

  def moved(position: Position, g_hat: Array, alpha: Array) -> Array:
    change = jax.jvp(
      lambda a: soft_value(a, position.relative),
      (alpha,),
      (jnp.ones_like(alpha),),
    )[1]
    gradient = jnp.sum(widened(g_hat) * change * position.cell / 2)
    return jnp.clip(alpha - learning_rate * gradient, _LEAST, _LARGEST)

  def apply(
    phi: Any, signals: Signals, state: dict[str, Array]
  ) -> tuple[dict[str, Array], dict[str, Array]]:
    positions = {path: position_at(signals, path) for path in signals.g_ste}
    g_tilde = {
      path: (g * slope(positions[path], state[path])).astype(g.dtype)
      for path, g in signals.g_ste.items()
    }
    if learning_rate:
      state = {
        path: moved(at, signals.g_hat[path], state[path])
        for path, at in positions.items()
      }
    return g_tilde, state

  return GradientEstimator(
    init=lambda key, leaves: (),
    init_state=init_state,
    apply=apply,
    factor=lambda phi: {},
  )
