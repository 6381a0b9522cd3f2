"""Gradual quantization: ProxQuant, BinaryRelax, and hard clips.

A proximal step pulls each weight towards its nearest level, with a strength
that grows during training. The loss receives the weights themselves (ProxQuant)
or the result of such a step (BinaryRelax). `TrainStep.quantized` returns the
projected weights in both cases.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax import selection
from mq_jax.checks import check_positive
from mq_jax.printing import prints_call
from mq_jax.quantizers import (
  Quantizer,
  Variables,
  check_plain,
  projected,
  w_itself,
)

Array = jax.Array


@prints_call
def binary() -> Quantizer:
  """Quantizes to sign(W) without a scale, as BinaryConnect; sign(0) = +1.

  The gradient passes unchanged. The authors clip W to [−1, 1] after each step:
  `clip_weights`. A norm layer must follow.

  References:
    Courbariaux, Bengio, David, `BinaryConnect
    <https://arxiv.org/abs/1511.00363>`_, 2015, section 2.3
  """

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    levels = jnp.array([-1, 1], w_tilde.dtype)
    return (w_tilde >= 0).astype(jnp.uint8), levels

  return Quantizer(
    codes,
    saturated=lambda w_tilde, variables: jnp.abs(w_tilde) >= 1,
    unrounded=w_itself,
  )


def prox_l1(w: Array, level: Array, strength: Array) -> Array:
  """Moves w to `level` by at most `strength`: the prox of Σ min |w − level|."""
  away = w - level
  return level + jnp.sign(away) * jnp.maximum(jnp.abs(away) - strength, 0)


def prox_l2(w: Array, level: Array, strength: Array) -> Array:
  """Returns the prox of Σ ½ min (w − level)²: a weighted mean of the two."""
  return (w + strength * level) / (1 + strength)


class ProxState(NamedTuple):
  """State of `proximal_step`: the number of updates so far, int32."""

  updates: Array


def proximal_step(
  rules: selection.Rules,
  strength: optax.Schedule,
  *,
  prox: Callable[[Array, Array, Array], Array] = prox_l1,
) -> optax.GradientTransformation:
  """Pulls updated weights towards their levels, for `post_update`.

  This is ProxQuant's step W' = prox(W + move, Q(W + move), strength(t)), where
  the strength is the learning rate times λ_t. The authors increase λ in
  proportion to the epoch and clip to [−1, 1] (`clip_weights`).

  Args:
    rules: Rules as in `make_train_step`, whose quantizers have no variables.
      Leaves without a quantizer are not affected.
    strength: Function of the number of updates so far.
    prox: Proximal operator, `(w, level, strength) -> w`.

  Returns:
    A transformation of weight updates, which needs the parameters.

  References:
    Bai, Wang, Liberty, `ProxQuant <https://arxiv.org/abs/1810.00861>`_, 2019,
    algorithm 1 and eqs. (9) and (12)
  """
  rules = selection.fixed_rules(rules)

  def update(
    moves: Any, state: ProxState, params: Any = None
  ) -> tuple[Any, ProxState]:
    now = strength(state.updates)

    def pulled(quantizer: Quantizer, w: Array, move: Array) -> Array:
      new = w + move
      level = projected(quantizer, new)
      return prox(new, level, jnp.asarray(now, w.dtype)) - w

    new = selection.transform(pulled, rules, params, moves)
    return new, ProxState(state.updates + 1)

  return optax.GradientTransformation(
    lambda params: ProxState(jnp.zeros((), jnp.int32)), update
  )


def clip_weights(
  rules: selection.Rules, *, bound: float = 1.0
) -> optax.GradientTransformation:
  """Clips quantized weights to [−bound, bound], as the last `post_update`.

  Args:
    rules: Rules as in `make_train_step`.
    bound: Largest absolute value of a weight, positive.

  Returns:
    A transformation of weight updates, which needs the parameters.

  Raises:
    ValueError: If `bound` is not positive.
  """
  rules = selection.fixed_rules(rules)
  check_positive(bound=bound)

  def clip_weight(_: Quantizer, w: Array, move: Array) -> Array:
    clipped = jnp.clip(w + move, -bound, bound) - w
    # The sum of w and this difference can round to a number beyond the bound.
    result = w + clipped
    inwards = jnp.nextafter(clipped, -jnp.inf * jnp.sign(result))
    return jnp.where(jnp.abs(result) > bound, inwards, clipped)

  return optax.stateless(
    lambda moves, params: selection.transform(clip_weight, rules, params, moves)
  )


class Relaxation(NamedTuple):
  """Variables of `binary_relax` for one layer.

  Attributes:
    updates: Number of updates so far, int32.
    variables: Variables of the projection.
  """

  updates: Array
  variables: Variables


@prints_call
def binary_relax(projection: Quantizer, strength: optax.Schedule) -> Quantizer:
  """Relaxes Q(W) in the loss to (λ Q(W) + W) / (λ + 1), with λ growing to ∞.

  Args:
    projection: Q, such as `bwn()` or `twn()`, with W̃ = W.
    strength: λ as a function of the number of updates so far. The authors
      multiply λ by a constant above 1 at intervals and end with λ = ∞, which
      gives Q(W); the function may return infinity.

  Returns:
    A `Quantizer` with a `Relaxation`.

  Raises:
    ValueError: If `projection` pre-processes its weights.

  References:
    Yin, Zhang, Lyu, Osher, Qi, Xin, `BinaryRelax
    <https://arxiv.org/abs/1801.06313>`_, 2018, eq. (6) and algorithm 1
  """
  check_plain(projection)

  def relaxed(w_tilde: Array, variables: Relaxation) -> Array:
    level = projected(projection, w_tilde, variables.variables)
    now = jnp.asarray(strength(variables.updates), w_tilde.dtype)
    share = jnp.where(jnp.isinf(now), 1, now / (1 + now))
    return w_tilde + share * (level - w_tilde)

  def update(
    variables: Relaxation, w_tilde: Array, w_hat: Array, g_hat: Array
  ) -> Relaxation:
    return Relaxation(
      variables.updates + 1,
      projection.update(variables.variables, w_tilde, w_hat, g_hat),
    )

  return Quantizer(
    codes=lambda w_tilde, variables: projection.codes(
      w_tilde, variables.variables
    ),
    init=lambda w: Relaxation(jnp.zeros((), jnp.int32), projection.init(w)),
    update=update,
    relaxed=relaxed,
  )
