"""Loss-aware binarization (LAB): binary weights scaled by curvature."""

import jax
import jax.numpy as jnp

from mq_jax.checks import check_number
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, w_itself

Array = jax.Array
_TINY = 1e-8


@prints_call
def lab(*, decay: float = 0.999) -> Quantizer:
  """Quantizes to α · sign(W) with α = ‖d ∘ W‖₁ / ‖d‖₁ and d = √v + 1e-8.

  v is the moving average of g_hat², which estimates the diagonal curvature of
  the loss: α and the signs minimise Σ d (α·b − W)². If v is constant, as at the
  start, α = mean|W| as in `bwn`. sign(0) = +1. The gradient passes unchanged.
  The authors clip W to [−1, 1] after each step:
  `post_update=mq_jax.methods.clip_weights(...)`.

  Args:
    decay: β₂ of the moving average, in [0, 1).

  Returns:
    A `Quantizer` whose variables are v, of the shape of the weight, in
    float32 or wider.

  Raises:
    ValueError: If `decay` is not in [0, 1).

  References:
    Hou, Yao, Kwok, `Loss-aware Binarization of Deep Networks
    <https://arxiv.org/abs/1611.01600>`_, 2017, proposition 3.1 and algorithm 1,
    in which "m̂ ∘ d" must be a division. Scale and bias correction of d cancel
    in α. As in the code of the authors, updates move the full-precision W; the
    exact step of their eq. (7) is not taken.
  """
  check_number(decay=decay)
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay!r} must be in [0, 1).')

  def codes(w_tilde: Array, variables: Array) -> tuple[Array, Array]:
    d = jnp.sqrt(variables) + _TINY
    alpha = jnp.sum(d * jnp.abs(widened(w_tilde))) / jnp.sum(d)
    levels = jnp.stack([-alpha, alpha]).astype(w_tilde.dtype)
    return (w_tilde >= 0).astype(jnp.uint8), levels

  return Quantizer(
    codes,
    init=lambda w: jnp.zeros_like(widened(w)),
    update=lambda variables, w_tilde, w_hat, g_hat: (
      decay * variables + (1 - decay) * widened(g_hat) ** 2
    ),
    unrounded=w_itself,
  )
