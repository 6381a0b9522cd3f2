"""DoReFa: k-bit weights between −1 and 1, eqs. (1) and (4)."""

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.checks import check_bits, check_switch
from mq_jax.derivatives import sech_squared
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers.base import (
  Quantizer,
  Variables,
  check_clip,
  clip_gradient,
  even_levels,
  is_clipped,
)
from mq_jax.quantizers.bwn import bwn

Array = jax.Array


def _tanh_range(w: Array) -> Array:
  # The maximum of a layer of zeros is 0; 1 keeps W̃ and its derivative finite.
  # The paper does not define a gradient of the maximum: it is constant here.
  largest = jnp.max(jnp.abs(jnp.tanh(widened(w))))
  return lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))


@prints_call
def dorefa(
  bits: int = 1, *, clip: float | None = 1.0, original: bool = False
) -> Quantizer:
  """Makes the quantizer of DoReFa's k-bit weights, eq. (1).

  W̃ = tanh(W) / (2 max|tanh(W)|) + ½, and Ŵ = 2 round((2ᵏ−1) W̃)/(2ᵏ−1) − 1.
  Ties round upwards, so W = 0 gives +1 at 1 bit. The maximum is taken over the
  layer, is constant in every derivative, and is 1 in a layer of zeros.

  `calibrate` is eq. (4) as printed, (1 − tanh²(W)) / max|tanh(W)|. This is
  twice the derivative of A, because it includes the slope 2 of Q. Therefore
  `straight_through` has slope 1.

  Args:
    bits: Bits per weight, 1 to 8.
    clip: The straight-through gradient is zero where |W̃| > clip. W̃ is in
      [0, 1], so the default never clips, and a smaller clip stops the weights
      near +1 only. None disables clipping.
    original: If True, use the 1-bit form of the DoReFa paper: W̃ = W,
      Ŵ = mean|W| · sign(W), with g_ste = g_hat.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8, if `clip` is not
      positive and finite, or if `original` is True and `bits` is not 1 or
      `clip` is neither 1 nor None.
    TypeError: If `original` is not a bool.

  Examples:
    >>> import jax.numpy as jnp
    >>> w = jnp.array([-1.0, -0.2, 0.1, 1.0])
    >>> print(mq_jax.quantize(mq_jax.dorefa(1), w, ()))
    [-1. -1.  1.  1.]
    >>> print(mq_jax.quantize(mq_jax.dorefa(2), w, ()).round(3))
    [-1.    -0.333  0.333  1.   ]

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization
    <https://papers.nips.cc/paper/8647>`_, 2019, eqs. (1) and (4)

    Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016
  """
  bits = check_bits(bits, 1, 8)
  check_clip(clip)
  check_switch(original=original)
  if original:
    if bits != 1:
      raise ValueError(f'original=True requires bits=1, not bits={bits}.')
    if clip not in (1, None):
      raise ValueError(
        f'original=True never clips: leave out clip={clip!r}, or use'
        ' mq_jax.bwn(clip=...).'
      )
    return bwn(clip=None, scaled_gradient=False)
  steps = 2**bits - 1

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    # jnp.round would round ½ down to the even 0.
    w = widened(w_tilde)
    rounded = jnp.floor(steps * w + 0.5)
    code = jnp.clip(rounded, 0, steps).astype(jnp.uint8)
    return code, even_levels(steps, w_tilde.dtype)

  def unrounded(w_tilde: Array, variables: Variables) -> Array:
    return 2 * w_tilde - 1

  return Quantizer(
    codes,
    preprocess=lambda w, variables: (
      jnp.tanh(widened(w)) / (2 * _tanh_range(w)) + 0.5
    ).astype(w.dtype),
    straight_through=lambda g_hat, w_tilde, variables: clip_gradient(
      g_hat, w_tilde, clip
    ),
    calibrate=lambda w, g_tilde, variables: (
      g_tilde * sech_squared(widened(w)) / _tanh_range(w)
    ).astype(g_tilde.dtype),
    saturated=lambda w_tilde, variables: (
      (jnp.abs(unrounded(w_tilde, variables)) > 0.99)
      | is_clipped(w_tilde, clip)
    ),
    unrounded=unrounded,
  )
