"""Quantizing by degrees: ProxQuant, BinaryRelax, and hard clips.

A proximal step pulls each weight towards its nearest level, the harder the
longer training goes on; the loss sees the weights themselves (ProxQuant) or
what the step would make of them (BinaryRelax). `TrainStep.quantized` gives the
projections that stand at the end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax import selection
from mq_jax.quantizers import Quantizer, Variables, check_plain, projected

Array = jax.Array
Schedule = Callable[[Array], Any]


def binary() -> Quantizer:
  """Ŵ = sign(W), without a scale, sign(0) = +1: BinaryConnect's weights.

  The gradient is handed on, and the authors clip W to [−1, 1] after each step:
  `clip_weights`. A norm layer has to follow.

  References:
    Courbariaux, Bengio, David, `BinaryConnect
    <https://arxiv.org/abs/1511.00363>`_, 2015, section 2.3
  """

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    del variables
    levels = jnp.array([-1, 1], w_tilde.dtype)
    return (w_tilde >= 0).astype(jnp.uint8), levels

  return Quantizer(
    codes, saturated=lambda w_tilde, variables: jnp.abs(w_tilde) >= 1
  )


def prox_l1(w: Array, level: Array, strength: Array) -> Array:
  """Towards `level` by `strength`, and not beyond: of Σ min |w − level|."""
  away = w - level
  return level + jnp.sign(away) * jnp.maximum(jnp.abs(away) - strength, 0)


def prox_l2(w: Array, level: Array, strength: Array) -> Array:
  """(w + strength · level) / (1 + strength): of Σ ½ min (w − level)²."""
  return (w + strength * level) / (1 + strength)


class ProxState(NamedTuple):
  """Number of updates so far, int32."""

  updates: Array


def proximal(
  rules: selection.Rules,
  strength: Schedule,
  prox: Callable[[Array, Array, Array], Array] = prox_l1,
) -> optax.GradientTransformation:
  """Weights move, and then towards their levels: for `post_update`.

  W' = prox(W + move, Q(W + move), strength(t)), ProxQuant's step, where
  strength is learning rate times λ_t. The authors let λ grow in proportion to
  the epoch, and clip to [−1, 1] (`clip_weights`).

  Args:
    rules: As in `make_train_step`; leaves without a quantizer just move. The
      levels are those of quantizers without variables.
    strength: Of the number of updates so far.
    prox: `(w, level, strength) -> w`.

  Returns:
    The transformation of moves; it needs the parameters.

  References:
    Bai, Wang, Liberty, `ProxQuant <https://arxiv.org/abs/1810.00861>`_, 2019,
    algorithm 1 and eqs. (9) and (12)
  """

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
  rules: selection.Rules, bound: float = 1.0
) -> optax.GradientTransformation:
  """Keeps quantized weights within [−bound, bound]: for `post_update`, last.

  Args:
    rules: As in `make_train_step`.
    bound: Positive.

  Returns:
    The transformation of moves; it needs the parameters.

  Raises:
    ValueError: If `bound` is not positive.
  """
  if not bound > 0:
    raise ValueError(f'bound={bound!r} must be positive.')

  def within(quantizer: Quantizer, w: Array, move: Array) -> Array:
    del quantizer
    return jnp.clip(w + move, -bound, bound) - w

  def update(moves: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return selection.transform(within, rules, params, moves), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Relaxation(NamedTuple):
  """What `binary_relax` keeps of a layer.

  Attributes:
    updates: So far, int32.
    variables: Of the quantizer relaxed towards.
  """

  updates: Array
  variables: Variables


def binary_relax(projection: Quantizer, strength: Schedule) -> Quantizer:
  """The loss sees (λ Q(W) + W) / (λ + 1), and at the end Q(W).

  Args:
    projection: Q, such as `bwn()` or `twn()`, with W̃ = W.
    strength: λ of the number of updates so far. The authors multiply it by a
      constant above 1 now and then, and end with λ = ∞, which is Q itself: an
      infinite value does that.

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
