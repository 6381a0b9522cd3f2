"""Quantizers: the forward pass of quantized training, A and Q of the paper.

| paper       | code      | what                                             |
|-------------|-----------|--------------------------------------------------|
| W           | `w`       | full-precision weight of one layer               |
| W̃ = A(W)    | `w_tilde` | pre-processed weight                             |
| Ŵ = Q(W̃)    | `w_hat`   | quantized weight, `levels[codes]`                |
| g_Ŵ         | `g_hat`   | ∂loss/∂Ŵ                                         |
| g_W̃         | `g_tilde` | ∂loss/∂W̃, from a gradient estimator              |
| g_W         | `g`       | ∂loss/∂W = g_W̃ · ∂W̃/∂W, the calibrated gradient  |

A quantizer also contains the straight-through rule of its paper, because these
rules differ. The estimator `ste()` only returns the gradient of that rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.checks import check_bits

Array = jax.Array
Variables = Any


class Quantizer(NamedTuple):
  """The forward pass of quantized training, for one weight.

  Every function is pure and takes the weight `w` of one layer, of any shape.
  The train step carries `variables` from step to step. `init` returns the first
  value, `()` for a method without variables.

  Attributes:
    codes: `(w_tilde, variables) -> (codes, levels)`. `codes` are uint8 with the
      shape of `w`. `levels` is the table of values. A table per tensor has
      shape `(n,)`. Otherwise `levels` has one more axis than `w`: `n` is the
      last axis, and every axis that shares a table has size 1. Q is
      `dequantize(codes, levels)`.
    init: `(w) -> variables`.
    preprocess: A: `(w, variables) -> w_tilde`.
    straight_through: `(g_hat, w_tilde, variables) -> g_ste`, the hand-made
      estimate of ∂loss/∂W̃ from the method's own paper. The default returns
      g_hat.
    calibrate: `(w, g_tilde, variables) -> g`, eq. (4): g_tilde · ∂W̃/∂W.
    update: `(variables, w_tilde, w_hat, g_hat) -> variables`, called in the
      late weight update. `w_tilde`, `w_hat` and `g_hat` belong to the last
      loss, which used these `variables`.
    saturated: `(w_tilde, variables) -> bool array`, true for weights outside
      the range in which a gradient can still flip their codes.
    relaxed: `(w_tilde, variables) -> w_hat`. If a method quantizes gradually,
      the loss uses this value in training instead of Q(W̃). If None, the loss
      uses Q(W̃).
    parametrized: `(w) -> theta`. The optimizer trains theta instead of `w`, and
      `preprocess` and `calibrate` receive theta. If None, `w` itself is
      trained.
  """

  codes: Callable[[Array, Variables], tuple[Array, Array]]
  init: Callable[[Array], Variables] = lambda w: ()
  preprocess: Callable[[Array, Variables], Array] = lambda w, variables: w
  straight_through: Callable[[Array, Array, Variables], Array] = (
    lambda g_hat, w_tilde, variables: g_hat
  )
  calibrate: Callable[[Array, Array, Variables], Array] = (
    lambda w, g_tilde, variables: g_tilde
  )
  update: Callable[[Variables, Array, Array, Array], Variables] = (
    lambda variables, w_tilde, w_hat, g_hat: variables
  )
  saturated: Callable[[Array, Variables], Array] = lambda w_tilde, variables: (
    jnp.zeros(w_tilde.shape, bool)
  )
  relaxed: Callable[[Array, Variables], Array] | None = None
  parametrized: Callable[[Array], Array] | None = None


def dequantize(codes: Array, levels: Array) -> Array:
  """Returns the values of integer codes.

  Args:
    codes: Unsigned integers of any shape.
    levels: Table of values: `(n,)`, or one table per channel as in
      `Quantizer.codes`.

  Returns:
    `levels[codes]`, with the shape of `codes` and the dtype of `levels`.
  """
  if levels.ndim == 1:
    return levels[codes]
  values = jnp.take_along_axis(
    jnp.broadcast_to(levels, (*codes.shape, levels.shape[-1])),
    codes[..., None].astype(jnp.int32),
    axis=-1,
  )
  return values[..., 0]


def quantize(quantizer: Quantizer, w: Array, variables: Variables) -> Array:
  """Returns Ŵ = Q(A(W)) of one weight, with the shape of W̃."""
  return dequantize(
    *quantizer.codes(quantizer.preprocess(w, variables), variables)
  )


def forward_weight(
  quantizer: Quantizer, w_tilde: Array, variables: Variables
) -> Array:
  """Returns the weight that the loss uses: Q(W̃) or its relaxation."""
  if quantizer.relaxed is not None:
    return quantizer.relaxed(w_tilde, variables)
  return dequantize(*quantizer.codes(w_tilde, variables))


def projected(
  quantizer: Quantizer, w: Array, variables: Variables = ()
) -> Array:
  """Returns Q(W), for methods that move W itself onto the levels.

  Raises:
    ValueError: If W̃ differs from W, or if the quantizer has variables and
      `variables` is `()`.
  """
  check_plain(quantizer)
  has_variables = quantizer.init is not Quantizer._field_defaults['init']
  if has_variables and isinstance(variables, tuple) and not variables:
    raise ValueError(
      'The quantizer has variables, but this method keeps none: use a quantizer'
      ' without variables, such as mq_jax.methods.twn(), or wrap the quantizer'
      ' in mq_jax.methods.fixed_levels.'
    )
  return dequantize(*quantizer.codes(w, variables)).astype(w.dtype)


def check_plain(quantizer: Quantizer) -> None:
  """Raises `ValueError` unless W̃ = W."""
  if quantizer.preprocess is not Quantizer._field_defaults['preprocess']:
    raise ValueError(
      'The quantizer pre-processes its weights, but this method moves the'
      ' weights themselves onto levels: use a quantizer with W̃ = W, such as'
      ' mq_jax.bwn() or mq_jax.methods.twn().'
    )


def unquantized(projection: Quantizer) -> Quantizer:
  """Returns a quantizer that the loss ignores, for use after training.

  Args:
    projection: Quantizer of `TrainStep.codes` and `TrainStep.quantized`.

  Returns:
    The same `Quantizer`, except that the loss uses W and g_ste is g_hat.

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
  # The maximum of a layer of zeros is 0; 1 keeps W̃ and its derivative finite.
  # The paper does not define the gradient of the maximum. Here the maximum is
  # a constant.
  largest = jnp.max(jnp.abs(jnp.tanh(w)))
  return lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))


def dorefa(
  bits: int = 1, clip: float | None = 1.0, original: bool = False
) -> Quantizer:
  """Makes the quantizer of DoReFa's k-bit weights, eq. (1).

  W̃ = tanh(W) / (2 max|tanh(W)|) + ½, and Ŵ = 2 round((2ᵏ−1) W̃)/(2ᵏ−1) − 1.
  Ties round upwards, so W = 0 gives +1 at 1 bit. The maximum is taken over the
  layer and is a constant in every derivative. In a layer of zeros, 1 replaces
  the maximum.

  `calibrate` is eq. (4) as printed, (1 − tanh²(W)) / max|tanh(W)|. This is
  twice the derivative of A, because it includes the slope 2 of Q. Therefore
  `straight_through` has slope 1.

  Args:
    bits: Bits per weight, 1 to 8.
    clip: The straight-through gradient is zero where |W̃| > clip. W̃ is in
      [0, 1], so the default never clips. None disables clipping.
    original: If True, use the 1-bit form of the DoReFa paper: W̃ = W,
      Ŵ = mean|W| · sign(W), with g_ste = g_hat.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8, if `clip` is not
      positive, or if `original` is True and `bits` is not 1.

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
        f'original=True is a 1-bit form, but bits={bits}: leave out one of the'
        ' two.'
      )
    return bwn(clip=None, scaled_gradient=False)
  steps = 2**bits - 1

  def codes(w_tilde: Array, _: Variables) -> tuple[Array, Array]:
    # jnp.round would round ½ down to the even 0.
    rounded = jnp.floor(steps * w_tilde + 0.5)
    levels = 2 * jnp.arange(steps + 1, dtype=w_tilde.dtype) / steps - 1
    return jnp.clip(rounded, 0, steps).astype(jnp.uint8), levels

  return Quantizer(
    codes,
    preprocess=lambda w, variables: jnp.tanh(w) / (2 * _tanh_range(w)) + 0.5,
    straight_through=lambda g, w_tilde, variables: _gate(g, w_tilde, clip),
    calibrate=lambda w, g, variables: (
      g * (1 - jnp.tanh(w) ** 2) / _tanh_range(w)
    ),
    saturated=lambda w_tilde, variables: jnp.abs(2 * w_tilde - 1) > 0.99,
  )


def bwn(
  per_channel: bool = False,
  channel_axis: int = -1,
  clip: float | None = 1.0,
  scaled_gradient: bool = True,
) -> Quantizer:
  """Makes the quantizer of scaled binary weights, BWN of XNOR-Net, eq. (2).

  W̃ = W, and Ŵ = α · sign(W̃) with α = mean|W̃| and sign(0) = +1. The
  straight-through gradient is α · g_hat · 1[|W̃| ≤ clip], with constant α.

  Args:
    per_channel: True for one α per output channel instead of one α per layer.
    channel_axis: Axis of the output channels, the last one in JAX's layouts.
    clip: The straight-through gradient is zero where |W̃| > clip. None disables
      clipping.
    scaled_gradient: True if the straight-through gradient has the factor α. The
      factor is about 0.05 in the 3x3 layers of a ResNet20, and the published
      STE results include it.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `clip` is not positive, or, when the quantizer is applied, if
      the weight has no axis `channel_axis`.

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

  def codes(w_tilde: Array, _: Variables) -> tuple[Array, Array]:
    alpha = scale(w_tilde)
    levels = jnp.stack([-alpha, alpha], axis=-1)
    return (w_tilde >= 0).astype(jnp.uint8), (
      levels if per_channel else levels.reshape(2)
    )

  def straight_through(g_hat: Array, w_tilde: Array, _: Variables) -> Array:
    g_ste = _gate(g_hat, w_tilde, clip)
    return scale(w_tilde) * g_ste if scaled_gradient else g_ste

  return Quantizer(
    codes,
    straight_through=straight_through,
    saturated=lambda w_tilde, variables: jnp.abs(w_tilde) > 1,
  )
