"""Quantizing in portions: INQ, and the penalties that ELQ adds.

The largest weights of a layer are quantized and frozen first. Training the
other weights compensates for the error, until all weights are frozen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mq_jax import selection
from mq_jax.checks import check_at_least, check_bits, check_count
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import (
  Quantizer,
  Variables,
  check_plain,
  projected,
  unquantized,
  w_itself,
)

Array = jax.Array


@prints_call
def powers_of_two(bits: int) -> Quantizer:
  """Quantizes to the nearest of INQ's 2ᵇ⁻¹ + 1 levels: 0 or ± a power of two.

  The largest power is 2^n₁ with n₁ = ⌊log₂(4/3 · max|W|)⌋, the smallest 2^n₂
  with n₂ = n₁ + 1 − 2ᵇ⁻². Ties round away from 0.

  Args:
    bits: b, 2 to 6, including the bit for 0.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 2 to 6.

  References:
    Zhou, Yao, Guo, Xu, Chen, `Incremental Network Quantization
    <https://arxiv.org/abs/1702.03044>`_, 2017, eqs. (1) to (4)
  """
  bits = check_bits(bits, 2, 6)
  count = 2 ** (bits - 2)

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    largest = jnp.max(jnp.abs(widened(w_tilde)))
    top = _power_below(jnp.where(largest > 0, largest, 1) / 0.75)
    powers = top * (0.5 ** np.arange(count - 1, -1, -1)).astype(top.dtype)
    powers = powers.astype(w_tilde.dtype)
    levels = jnp.concatenate(
      [-powers[::-1], jnp.zeros_like(powers[:1]), powers]
    )
    return _nearest(w_tilde, levels), levels

  return Quantizer(codes, unrounded=w_itself)


def _power_below(x: Array) -> Array:
  """Returns the largest power of two that is not above a positive number.

  Sets the bits of the mantissa to 0, which is exact: exp2, and so ldexp, are
  not exact on a GPU.
  """
  bits = jnp.finfo(x.dtype).bits
  mantissa = jnp.finfo(x.dtype).nmant
  whole = lax.bitcast_convert_type(x, f'int{bits}')
  return lax.bitcast_convert_type(whole >> mantissa << mantissa, x.dtype)


def _nearest(w: Array, levels: Array) -> Array:
  """Returns the code of the nearest of sorted levels, ties away from 0."""
  ends = widened(levels)
  middles = (ends[1:] + ends[:-1]) / 2
  from_below = jnp.searchsorted(middles, w, side='right')
  from_above = jnp.searchsorted(middles, w, side='left')
  return jnp.where(w >= 0, from_below, from_above).astype(jnp.uint8)


@prints_call
def fixed_levels(projection: Quantizer) -> Quantizer:
  """Quantizes to the nearest of the levels of the first weights.

  Args:
    projection: Quantizer that determines these levels. It has no variables and
      one sorted table per layer.

  Returns:
    A `Quantizer` whose variables are the levels.

  Raises:
    ValueError: If `projection` pre-processes its weights.
  """
  check_plain(projection)
  return Quantizer(
    codes=lambda w_tilde, variables: (_nearest(w_tilde, variables), variables),
    init=lambda w: projection.codes(w, ())[1],
    unrounded=w_itself,
  )


@prints_call
def inq(bits: int = 5) -> Quantizer:
  """Returns INQ's quantizer, for use with `freeze_portions`.

  The loss receives W itself.

  Args:
    bits: Bits as in `powers_of_two`.

  Returns:
    A `Quantizer` whose variables are the levels of the first weights.
  """
  return unquantized(fixed_levels(powers_of_two(bits)))


class IncrementalState(NamedTuple):
  """State of `freeze_portions`.

  Attributes:
    updates: Number of updates so far, int32.
    frozen: Path to the mask of quantized weights.
    variables: Path to the variables of the quantizer.
  """

  updates: Array
  frozen: dict[str, Array]
  variables: dict[str, Any]


def freeze_portions(
  rules: selection.Rules,
  portions: Sequence[float],
  *,
  every: int,
  first: int = 0,
) -> optax.GradientTransformation:
  """Quantizes and freezes growing portions of a layer, for `post_update`.

  At updates `first`, `first` + `every` … the largest free weights of a layer
  move onto their levels, so that the next portion of the weights is frozen.
  Frozen weights never move again.

  Args:
    rules: Rules as in `make_train_step`. Leaves without a quantizer keep their
      updates.
    portions: Shares of the weights, ascending in (0, 1] and ending with 1.
    every: Updates between two portions.
    first: Updates before the first portion.

  Returns:
    A transformation of weight updates, which needs the parameters.

  Raises:
    ValueError: If `portions` do not ascend to 1, `every` is not a positive
      integer, or `first` is negative.

  References:
    Zhou et al., INQ, 2017, section 2.2 and algorithm 1. A widespread
    implementation freezes the smallest weights first.
  """
  rules, portions = selection.fixed_rules(rules), tuple(portions)
  bounds = [0.0, *portions]
  if not portions or portions[-1] != 1 or sorted(set(bounds)) != bounds:
    raise ValueError(
      f'portions={portions} must start above 0, ascend and end with 1.'
    )
  check_count('every', every)
  check_at_least(0, first=first)

  def init(params: Any) -> IncrementalState:
    variables = selection.initial_variables(params, rules)
    weights = selection.only(variables, params)
    frozen = {path: jnp.zeros(w.shape, bool) for path, w in weights.items()}
    return IncrementalState(jnp.zeros((), jnp.int32), frozen, variables)

  def update(
    moves: Any, state: IncrementalState, params: Any = None
  ) -> tuple[Any, IncrementalState]:
    weights = selection.named_leaves(params)
    portion, remainder = jnp.divmod(state.updates - first, every)
    due = (remainder == 0) & (portion >= 0) & (portion < len(portions))
    index = jnp.clip(portion, 0, len(portions) - 1)

    def freeze(w: Array, frozen: Array) -> Array:
      count = jnp.asarray(_counts(portions, w.size), jnp.int32)[index]
      size = jnp.where(frozen, jnp.inf, jnp.abs(w)).ravel()
      rank = jnp.argsort(jnp.argsort(-size))
      return frozen | (rank < count).reshape(w.shape)

    frozen = {
      path: lax.cond(due, freeze, lambda w, old: old, weights[path], old_frozen)
      for path, old_frozen in state.frozen.items()
    }

    def moved(
      q: Quantizer, w: Array, move: Array, old: Array, new: Array, v: Variables
    ) -> Array:
      onto = projected(q, w, v) - w
      return jnp.where(old, 0, jnp.where(new, onto, move))

    new = selection.transform(
      moved, rules, params, moves, state.frozen, frozen, state.variables
    )
    return new, IncrementalState(state.updates + 1, frozen, state.variables)

  return optax.GradientTransformation(init, update)


def _counts(portions: Sequence[float], size: int) -> list[int]:
  """Returns the number of frozen weights of each portion.

  Python's numbers represent counts above 2²⁴ that float32 does not.
  """
  return [round(float(share) * size) for share in portions]


def add_elq_penalties(
  rules: selection.Rules, *, perturbation: float, approximation: float
) -> optax.GradientTransformation:
  """Adds the gradients of ELQ's two penalties, as the first part of `refine`.

  This is a reconstruction without the text of the paper. The loss becomes

    L(W) + a₁ |L(W) − L(Ŵ)| + a₂ ‖W − Ŵ‖²,

  with Ŵ constant. In each layer |L(W) − L(Ŵ)| ≈ |⟨∂L/∂W, W − Ŵ⟩|, with ∂L/∂W
  constant, so that

    g ← g + a₁ sign⟨g, W − Ŵ⟩ g + 2 a₂ (W − Ŵ).

  Args:
    rules: Rules as in `make_train_step`, whose quantizers have fixed levels
      (`fixed_levels`) or no variables.
    perturbation: a₁, weight of the change of the loss.
    approximation: a₂, weight of the quantization error.

  Returns:
    A transformation of gradients, which needs the parameters.

  Raises:
    ValueError: If `perturbation` or `approximation` is negative.

  References:
    Zhou, Yao, Wang, Chen, `Explicit Loss-Error-Aware Quantization for Low-Bit
    Deep Neural Networks`, CVPR 2018 (abstract, and descriptions by others)
  """
  rules = selection.fixed_rules(rules)
  check_at_least(0, perturbation=perturbation, approximation=approximation)

  def update(
    grads: Any, variables: dict[str, Any], params: Any = None
  ) -> tuple[Any, dict[str, Any]]:
    def penalised(q: Quantizer, w: Array, g: Array, v: Variables) -> Array:
      error = w - projected(q, w, v)
      sign = jnp.sign(jnp.sum(widened(g) * widened(error))).astype(g.dtype)
      return g * (1 + perturbation * sign) + 2 * approximation * error

    new = selection.transform(penalised, rules, params, grads, variables)
    return new, variables

  return optax.GradientTransformation(
    lambda params: selection.initial_variables(params, rules), update
  )
