"""BWN: binary weights with a scale, eq. (2)."""

import jax
import jax.numpy as jnp

from mq_jax.checks import check_switch
from mq_jax.printing import prints_call
from mq_jax.quantizers.base import (
  Quantizer,
  Variables,
  check_clip,
  clip_gradient,
  is_clipped,
  w_itself,
)

Array = jax.Array


@prints_call
def bwn(*, clip: float | None = 1.0, scaled_gradient: bool = True) -> Quantizer:
  """Makes the quantizer of scaled binary weights, BWN of XNOR-Net, eq. (2).

  W̃ = W, and Ŵ = α · sign(W̃) with α = mean|W̃| and sign(0) = +1. The
  straight-through gradient is α · g_hat · 1[|W̃| ≤ clip], with constant α.
  `per(bwn(), axes=-1)` has one α per output channel, as XNOR-Net has.

  Args:
    clip: The gradient is zero where |W̃| > clip. None disables clipping.
    scaled_gradient: True if the straight-through gradient has the factor α. The
      factor is about 0.05 in the 3x3 layers of a ResNet20, and the published
      STE results include it.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `clip` is not positive.
    TypeError: If `scaled_gradient` is not a bool.

  Examples:
    >>> import jax.numpy as jnp
    >>> w = jnp.array([0.5, -1.0, 1.5])
    >>> print(mq_jax.quantize(mq_jax.bwn(), w, ()))
    [ 1. -1.  1.]

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization
    <https://papers.nips.cc/paper/8647>`_, 2019, eq. (2)

    Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, 2016
  """
  check_clip(clip)
  check_switch(scaled_gradient=scaled_gradient)

  def scale(w_tilde: Array) -> Array:
    return jnp.mean(jnp.abs(w_tilde))

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    alpha = scale(w_tilde)
    return (w_tilde >= 0).astype(jnp.uint8), jnp.stack([-alpha, alpha])

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: Variables
  ) -> Array:
    g_ste = clip_gradient(g_hat, w_tilde, clip)
    return scale(w_tilde) * g_ste if scaled_gradient else g_ste

  return Quantizer(
    codes,
    straight_through=straight_through,
    saturated=lambda w_tilde, variables: is_clipped(w_tilde, clip),
    unrounded=w_itself,
  )
