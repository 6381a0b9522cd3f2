"""Weights that oscillate between two levels: freezing and dampening."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax import selection
from mq_jax.checks import check_at_least, check_number
from mq_jax.precision import widened
from mq_jax.quantizers import (
  Quantizer,
  check_no_variables,
  check_plain,
  dequantize,
  projected,
)

Array = jax.Array


class Oscillation(NamedTuple):
  """State of `freeze_oscillating` for one leaf, arrays of the shape of W.

  Attributes:
    codes: Codes after the last update, int32.
    direction: Sign of the last change of the code; 0 before the first change.
    frequency: Running mean of the changes that reversed the change before.
    mean_code: Running mean of the codes.
    frozen: True where the weight is frozen; it keeps its code.
  """

  codes: Array
  direction: Array
  frequency: Array
  mean_code: Array
  frozen: Array


class OscillationState(NamedTuple):
  """State of `freeze_oscillating`.

  Attributes:
    updates: Number of updates so far, int32.
    leaves: Path to `Oscillation`.
  """

  updates: Array
  leaves: dict[str, Oscillation]


def freeze_oscillating(
  rules: selection.Rules,
  *,
  threshold: float | Callable[[Array], Any],
  momentum: float = 0.01,
) -> optax.GradientTransformation:
  """Freezes weights whose codes oscillate between levels.

  A change of the code is an oscillation if it has the opposite sign of the
  change before. A weight whose running mean of oscillations exceeds `threshold`
  keeps its rounded mean code from then on: it is the level of this code, and
  moves only with the levels. A scale that the weights determine, such as
  max|W|, can change when a weight freezes; frozen weights follow in the next
  update. Use it as `post_update`.

  Args:
    rules: Rules as in `make_train_step`, whose quantizers have no variables and
      W̃ = W.
    threshold: Largest frequency of a weight that moves, or a function of the
      number of updates; the authors lower it from 0.04 to 0.01.
    momentum: Weight of the last step in both running means, in (0, 1).

  Returns:
    A transformation of weight updates, which needs the parameters.

  Raises:
    ValueError: If an argument is out of range, or, at `init`, if a quantizer
      pre-processes its weights or has variables.

  References:
    Nagel et al., `Overcoming Oscillations in Quantization-Aware Training
    <https://arxiv.org/abs/2203.11086>`_, 2022, algorithm 1 and eqs. (4) to (6)
  """
  rules = selection.fixed_rules(rules)
  check_number(momentum=momentum)
  if not 0 < momentum < 1:
    raise ValueError(f'momentum={momentum!r} must be between 0 and 1.')
  if not callable(threshold):
    check_at_least(0, threshold=threshold)

  def start(quantizer: Quantizer, w: Array) -> Oscillation:
    check_plain(quantizer)
    check_no_variables(quantizer)
    codes = quantizer.codes(w, ())[0].astype(jnp.int32)
    zeros = jnp.zeros(w.shape, widened(w).dtype)
    return Oscillation(
      codes=codes,
      direction=jnp.zeros_like(codes),
      frequency=zeros,
      mean_code=codes.astype(zeros.dtype),
      frozen=jnp.zeros(w.shape, bool),
    )

  def init(params: Any) -> OscillationState:
    selected = selection.select(params, rules)
    leaves = selection.map_selected(
      start, selected, selection.named_leaves(params)
    )
    return OscillationState(jnp.zeros((), jnp.int32), leaves)

  def followed(
    quantizer: Quantizer, w: Array, old: Oscillation, limit: Any
  ) -> tuple[Oscillation, Array]:
    """Returns the state of one leaf at the moved weights, and their values."""
    codes, levels = quantizer.codes(w, ())
    codes = jnp.where(old.frozen, old.codes, codes.astype(jnp.int32))
    change = jnp.sign(codes - old.codes)
    oscillates = change * old.direction == -1
    frequency = momentum * oscillates + (1 - momentum) * old.frequency
    newly = (frequency > limit) & ~old.frozen
    level = jnp.floor(old.mean_code + 0.5).astype(jnp.int32)
    codes_now = jnp.where(newly, level, codes)
    frozen = old.frozen | newly
    now = Oscillation(
      codes=codes_now,
      direction=jnp.where(change != 0, change, old.direction),
      frequency=frequency,
      mean_code=momentum * codes + (1 - momentum) * old.mean_code,
      frozen=frozen,
    )
    return now, jnp.where(frozen, dequantize(codes_now, levels), w)

  def update(
    moves: Any, state: OscillationState, params: Any = None
  ) -> tuple[Any, OscillationState]:
    selected = selection.select(params, rules)
    limit = threshold(state.updates) if callable(threshold) else threshold
    followed_leaves = selection.map_selected(
      lambda q, w, move, old: followed(
        q, w + jnp.where(old.frozen, 0, move), old, limit
      ),
      selected,
      selection.named_leaves(params),
      selection.named_leaves(moves),
      state.leaves,
    )

    leaves = {path: now for path, (now, _) in followed_leaves.items()}

    def stopped(
      _: Quantizer, w: Array, move: Array, now_and_value: Any
    ) -> Array:
      now, value = now_and_value
      return jnp.where(now.frozen, value - w, move)

    moves = selection.transform(stopped, rules, params, moves, followed_leaves)
    return moves, OscillationState(state.updates + 1, leaves)

  return optax.GradientTransformation(init, update)


def dampen(
  rules: selection.Rules, *, strength: float
) -> optax.GradientTransformation:
  """Adds the gradient of λ Σ (W − Ŵ)², with constant Ŵ, to the gradient.

  The term pulls each weight to its level, away from the threshold at which its
  code would change. Use it as the first part of `refine`.

  Args:
    rules: Rules as in `make_train_step`, whose quantizers have no variables and
      W̃ = W. Leaves without a quantizer keep their gradients.
    strength: λ, at least 0.

  Returns:
    A transformation of gradients, which needs the parameters.

  Raises:
    ValueError: If `strength` is negative.

  References:
    Nagel et al., Overcoming Oscillations, 2022, eq. (7). Their W is clipped to
    the range of the levels first.
  """
  rules = selection.fixed_rules(rules)
  check_at_least(0, strength=strength)

  def pulled(quantizer: Quantizer, w: Array, g: Array) -> Array:
    return g + 2 * strength * (w - projected(quantizer, w))

  return optax.stateless(
    lambda grads, params: selection.transform(pulled, rules, params, grads)
  )
