"""Quantizers: the forward half of quantized training, A and Q of the paper.

| paper       | code      | what                                             |
|-------------|-----------|--------------------------------------------------|
| W           | `w`       | full-precision weight of one layer               |
| W̃ = A(W)    | `w_tilde` | pre-processed weight                             |
| Ŵ = Q(W̃)    | `w_hat`   | quantized weight, `levels[codes]`                |
| g_Ŵ         | `g_hat`   | ∂loss/∂Ŵ                                         |
| g_W̃         | `g_tilde` | ∂loss/∂W̃, from a gradient estimator              |
| g_W         | `g`       | ∂loss/∂W = g_W̃ · ∂W̃/∂W, the calibrated gradient  |

A quantizer also carries the straight-through rule of its own paper, because
the rules differ, and the estimator `ste()` only hands it on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.checks import check_bits

Array = jax.Array
Variables = Any


def _no_variables(w: Array) -> tuple[()]:
  del w  # these methods keep nothing between steps
  return ()


def _keep_variables(
  variables: Variables, w_tilde: Array, w_hat: Array, g_hat: Array
) -> Variables:
  del w_tilde, w_hat, g_hat
  return variables


def _identity(w: Array, variables: Variables) -> Array:
  del variables
  return w


def _hand_on(g_hat: Array, w_tilde: Array, variables: Variables) -> Array:
  del w_tilde, variables
  return g_hat


def _hand_on_calibrated(
  w: Array, g_tilde: Array, variables: Variables
) -> Array:
  del w, variables
  return g_tilde


def _never(w_tilde: Array, variables: Variables) -> Array:
  del variables
  return jnp.zeros(w_tilde.shape, bool)


class Quantizer(NamedTuple):
  """The forward half of quantized training, for one weight.

  Every function is pure and takes one layer's weight `w` of any shape.
  `variables` is what `init` returned, `()` where the method has none; it is
  carried between steps.

  Attributes:
    codes: `(w_tilde, variables) -> (codes, levels)`. `codes` are uint8, of the
      shape of `w`. `levels` is the table of values, shape `(n,)` for one
      table per tensor, or `w`'s rank plus one with `n` last and 1 on
      every axis that shares a table. Q is `dequantize(codes, levels)`.
    init: `(w) -> variables`.
    preprocess: A: `(w, variables) -> w_tilde`.
    straight_through: `(g_hat, w_tilde, variables) -> g_ste`, the hand-made
      estimate of ∂loss/∂W̃ of the method's own paper; the default hands g_hat
      on.
    calibrate: `(w, g_tilde, variables) -> g`, eq. (4): g_tilde · ∂W̃/∂W.
    update: `(variables, w_tilde, w_hat, g_hat) -> variables`, called with the
      late weight update: `w_tilde`, `w_hat` and `g_hat` are those of the last
      loss, which saw these `variables`.
    saturated: `(w_tilde, variables) -> bool array`: where the weight is beyond
      the range in which a gradient can still turn its code over.
    relaxed: `(w_tilde, variables) -> w_hat`: what the loss sees in training in
      the place of Q(W̃), where a method quantizes only by degrees; None where
      it sees Q(W̃).
    parametrized: `(w) -> theta`: what is trained in the place of `w`, where
      that is something else; `preprocess` and `calibrate` then get theta.
  """

  codes: Callable[[Array, Variables], tuple[Array, Array]]
  init: Callable[[Array], Variables] = _no_variables
  preprocess: Callable[[Array, Variables], Array] = _identity
  straight_through: Callable[[Array, Array, Variables], Array] = _hand_on
  calibrate: Callable[[Array, Array, Variables], Array] = _hand_on_calibrated
  update: Callable[[Variables, Array, Array, Array], Variables] = (
    _keep_variables
  )
  saturated: Callable[[Array, Variables], Array] = _never
  relaxed: Callable[[Array, Variables], Array] | None = None
  parametrized: Callable[[Array], Array] | None = None


def dequantize(codes: Array, levels: Array) -> Array:
  """The values that integer codes stand for.

  Args:
    codes: Unsigned integers, any shape.
    levels: Table of values: `(n,)`, or one per channel as in
      `Quantizer.codes`.

  Returns:
    `levels[codes]`, of the shape of `codes` and the dtype of `levels`.
  """
  if levels.ndim == 1:
    return levels[codes]
  picked = jnp.take_along_axis(
    jnp.broadcast_to(levels, (*codes.shape, levels.shape[-1])),
    codes[..., None].astype(jnp.int32),
    axis=-1,
  )
  return picked[..., 0]


def quantize(quantizer: Quantizer, w: Array, variables: Variables) -> Array:
  """Ŵ = Q(A(W)) of one weight, of the shape of w_tilde."""
  return dequantize(
    *quantizer.codes(quantizer.preprocess(w, variables), variables)
  )


def seen_by_loss(
  quantizer: Quantizer, w_tilde: Array, variables: Variables
) -> Array:
  """What stands for a weight in the loss: Q(W̃), or its relaxation."""
  if quantizer.relaxed is not None:
    return quantizer.relaxed(w_tilde, variables)
  return dequantize(*quantizer.codes(w_tilde, variables))


def projected(
  quantizer: Quantizer, w: Array, variables: Variables = ()
) -> Array:
  """Q(W) of a quantizer that takes W as it is, for moves of W itself.

  Raises:
    ValueError: If it has a W̃ of its own, or has variables and gets none.
  """
  check_plain(quantizer)
  lacks_variables = isinstance(variables, tuple) and not variables
  if quantizer.init is not _no_variables and lacks_variables:
    raise ValueError(
      'The quantizer has variables, and here there are none: take one without,'
      ' such as mq_jax.methods.twn(), or fixed_levels of one.'
    )
  return dequantize(*quantizer.codes(w, variables)).astype(w.dtype)


def check_plain(quantizer: Quantizer) -> None:
  """Raises `ValueError` unless W̃ = W."""
  if quantizer.preprocess is not _identity:
    raise ValueError(
      'The quantizer pre-processes its weights, and this moves the weights'
      ' themselves onto levels: take one with W̃ = W, such as mq_jax.bwn() or'
      ' mq_jax.methods.twn().'
    )


def unquantized(projection: Quantizer) -> Quantizer:
  """A quantizer that the loss does not see, for what quantizes at the end.

  Args:
    projection: What `codes` and `TrainStep.quantized` give.

  Returns:
    The same `Quantizer`, with W in the loss and no gradient rule.

  Raises:
    ValueError: If `projection` pre-processes its weights.
  """
  check_plain(projection)
  return Quantizer(
    projection.codes,
    init=projection.init,
    update=projection.update,
    saturated=projection.saturated,
    relaxed=lambda w_tilde, variables: w_tilde,
  )


def _check_clip(clip: float | None) -> None:
  if clip is not None and not clip > 0:
    raise ValueError(f'clip={clip!r} must be a positive number or None.')


def _gate(g: Array, w_tilde: Array, clip: float | None) -> Array:
  if clip is None:
    return g
  return jnp.where(jnp.abs(w_tilde) <= clip, g, jnp.zeros_like(g))


def _tanh_range(w: Array) -> Array:
  # A layer of zeros has no range of its own; 1 keeps W̃ and its derivative
  # finite. The paper leaves the maximum's own gradient open: a constant here.
  largest = jnp.max(jnp.abs(jnp.tanh(w)))
  return lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))


def dorefa(
  bits: int = 1, clip: float | None = 1.0, original: bool = False
) -> Quantizer:
  """DoReFa's k-bit weights, eq. (1).

  W̃ = tanh(W) / (2 max|tanh(W)|) + ½, and Ŵ = 2 round((2ᵏ−1) W̃)/(2ᵏ−1) − 1;
  ties round upwards, so that W = 0 gives +1 at 1 bit. The maximum is taken over
  the layer, is a constant to every derivative, and counts as 1 in a layer of
  zeros.

  `calibrate` is eq. (4) as printed, (1 − tanh²(W)) / max|tanh(W)|. That is
  twice the derivative of A; it absorbs the slope 2 of Q, which is why
  `straight_through` has slope 1.

  Args:
    bits: Bits of a weight, 1 to 8.
    clip: The straight-through gradient is zero where |W̃| > clip; W̃ lies in
      [0, 1], so the default never clips. None: no clipping.
    original: The 1-bit form of DoReFa's own paper: W̃ = W,
      Ŵ = mean|W| · sign(W), and the gradient handed on unchanged.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8, `clip` is not positive,
      or `original` is asked for with more than one bit.

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization
    <https://papers.nips.cc/paper/8647>`_, 2019, eqs. (1) and (4)

    Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016
  """
  check_bits(bits, 1, 8)
  _check_clip(clip)
  if original:
    if bits != 1:
      raise ValueError(
        f'original=True is a 1-bit form, but bits={bits}: leave one of the two'
        ' out.'
      )
    return bwn(clip=None, scaled_gradient=False)
  steps = 2**bits - 1

  def preprocess(w: Array, variables: Variables) -> Array:
    del variables
    return jnp.tanh(w) / (2 * _tanh_range(w)) + 0.5

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    del variables
    # floor(x + ½) and not jnp.round, which would round ½ down to the even 0.
    rounded = jnp.floor(steps * w_tilde + 0.5)
    levels = 2 * jnp.arange(steps + 1, dtype=w_tilde.dtype) / steps - 1
    return jnp.clip(rounded, 0, steps).astype(jnp.uint8), levels

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: Variables
  ) -> Array:
    del variables
    return _gate(g_hat, w_tilde, clip)

  def calibrate(w: Array, g_tilde: Array, variables: Variables) -> Array:
    del variables
    return g_tilde * (1 - jnp.tanh(w) ** 2) / _tanh_range(w)

  def saturated(w_tilde: Array, variables: Variables) -> Array:
    del variables
    return jnp.abs(2 * w_tilde - 1) > 0.99

  return Quantizer(
    codes,
    preprocess=preprocess,
    straight_through=straight_through,
    calibrate=calibrate,
    saturated=saturated,
  )


def bwn(
  per_channel: bool = False,
  channel_axis: int = -1,
  clip: float | None = 1.0,
  scaled_gradient: bool = True,
) -> Quantizer:
  """Binary weights with a scale, BWN of XNOR-Net, eq. (2).

  W̃ = W, and Ŵ = α · sign(W̃) with α = mean|W̃| and sign(0) = +1. The
  straight-through gradient is α · g_hat · 1[|W̃| ≤ clip], α held constant.

  Args:
    per_channel: One α per output channel in place of one per layer.
    channel_axis: The output channel's axis, the last in JAX's layouts.
    clip: The straight-through gradient is zero where |W̃| > clip. None: no
      clipping.
    scaled_gradient: Whether the straight-through gradient has the factor α. It
      is about 0.05 in the 3x3 layers of a ResNet20, and part of what the
      published STE rows train with.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `clip` is not positive, or, when it meets a weight, if the
      weight has no axis `channel_axis`.

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization
    <https://papers.nips.cc/paper/8647>`_, 2019, eq. (2)

    Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, 2016
  """
  _check_clip(clip)

  def scale(w_tilde: Array) -> Array:
    if not per_channel:
      return jnp.mean(jnp.abs(w_tilde), keepdims=True)
    if not -w_tilde.ndim <= channel_axis < w_tilde.ndim:
      raise ValueError(
        f'channel_axis={channel_axis} does not exist in a weight of shape'
        f' {w_tilde.shape}.'
      )
    axis = channel_axis % w_tilde.ndim
    others = tuple(i for i in range(w_tilde.ndim) if i != axis)
    return jnp.mean(jnp.abs(w_tilde), axis=others, keepdims=True)

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    del variables
    alpha = scale(w_tilde)
    levels = jnp.stack([-alpha, alpha], axis=-1)
    return (w_tilde >= 0).astype(jnp.uint8), (
      levels if per_channel else levels.reshape(2)
    )

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: Variables
  ) -> Array:
    del variables
    g_ste = _gate(g_hat, w_tilde, clip)
    return scale(w_tilde) * g_ste if scaled_gradient else g_ste

  def saturated(w_tilde: Array, variables: Variables) -> Array:
    del variables
    return jnp.abs(w_tilde) > 1

  return Quantizer(
    codes, straight_through=straight_through, saturated=saturated
  )
