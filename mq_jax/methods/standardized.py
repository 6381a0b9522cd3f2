"""Binary weights of standardized filters: IR-Net's Libra, and ReCU's clamp."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.checks import check_count, check_rising
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables, bwn, w_itself

Array = jax.Array
# ReCU divides by the deviation, then by this number.
_RECU_UNIT = 2 * math.sqrt(2)
_RECU_VARIANCE = 1e-5


def _balanced(w: Array) -> Array:
  wide = widened(w)
  return wide - jnp.mean(wide)


def _calibrated(
  preprocess: Callable[[Array, Any], Array],
) -> Callable[[Array, Array, Any], Array]:
  """Returns `calibrate`: the exact vjp of A."""

  def calibrate(w: Array, g_tilde: Array, variables: Any) -> Array:
    _, pullback = jax.vjp(lambda w: preprocess(w, variables), w)
    return pullback(g_tilde)[0]

  return calibrate


@prints_call
def libra() -> Quantizer:
  """Quantizes to 2ˢ · sign of the balanced and standardized weight.

  W̃ = (W − mean) / σ and s = round(log₂ mean|W̃|), so the scale is a shift of
  bits. g_ste is 2ˢ · g_hat, with constant s. `per(libra(), axes=-1)` has the
  statistics of one filter, as in IR-Net.

  Returns:
    A `Quantizer`. A layer of equal weights has W̃ = 0.

  References:
    Qin et al., `Forward and Backward Information Retention for Accurate Binary
    Neural Networks <https://arxiv.org/abs/1909.10788>`_, 2020, eqs. (5) to (8);
    σ has the factor 1/(n − 1), as in the authors' code.
  """

  def preprocess(w: Array, variables: Variables) -> Array:
    wide = widened(w)
    # W̃ does not depend on the scale of W, and squares of tiny weights are 0.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide)))
    centred = _balanced(wide / jnp.where(largest > 0, largest, 1))
    variance = jnp.sum(jnp.square(centred)) / max(w.size - 1, 1)
    # The rounding of the mean gives equal weights a deviation.
    varies = variance > (8 * jnp.finfo(wide.dtype).eps) ** 2
    deviation = jnp.sqrt(jnp.where(varies, variance, 1))
    return jnp.where(varies, centred / deviation, 0).astype(w.dtype)

  def scale(w_tilde: Array) -> Array:
    size = jnp.mean(jnp.abs(widened(w_tilde)))
    exponent = jnp.floor(jnp.log2(jnp.where(size > 0, size, 1)) + 0.5)
    return (2.0**exponent).astype(w_tilde.dtype)

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    shift = scale(w_tilde)
    return (w_tilde >= 0).astype(jnp.uint8), jnp.stack([-shift, shift])

  return Quantizer(
    codes,
    preprocess=preprocess,
    straight_through=lambda g_hat, w_tilde, variables: scale(w_tilde) * g_hat,
    calibrate=_calibrated(preprocess),
    unrounded=w_itself,
  )


@prints_call
def recu(steps: int, *, start: float = 0.85, end: float = 0.99) -> Quantizer:
  """Quantizes to mean|W̃| · sign, with the tails of W clamped: ReCU.

  W is balanced and divided by σ/(2√2), then clamped at ±q, the τ-quantile of a
  Laplace distribution: q = −mean|·| · ln(2 − 2τ), constant in the derivative. A
  weight beyond q gets no gradient of its own. τ grows from `start` to `end` as
  (e^progress − 1)/(e − 1). The gradient passes Q times the scale; the authors'
  scale is a trained number per filter instead. `per(recu(steps), axes=-1)` has
  the statistics of one filter, also mean|·|, which the authors take over the
  layer.

  Args:
    steps: Number of weight updates of the schedule of τ.
    start: First τ, in (0.5, 1).
    end: Last τ, in (0.5, 1).

  Returns:
    A `Quantizer` whose variables are the number of updates so far.

  Raises:
    ValueError: If an argument is out of range.

  References:
    Xu et al., `ReCU: Reviving the Dead Weights in Binary Neural Networks
    <https://arxiv.org/abs/2103.12369>`_, 2021, eqs. (10) to (13), and the
    authors' code
  """
  check_count('steps', steps)
  for name, value in (('start', start), ('end', end)):
    if not 0.5 < value < 1:
      raise ValueError(f'{name}={value!r} must be between 0.5 and 1.')
  check_rising(start, end, 'τ')

  def tau(updates: Array, dtype: Any) -> Array:
    progress = jnp.minimum(updates.astype(dtype) / steps, 1.0)
    return start + (end - start) * jnp.expm1(progress) / math.expm1(1)

  def preprocess(w: Array, variables: Array) -> Array:
    centred = _balanced(w)
    variance = jnp.sum(jnp.square(centred)) / max(w.size - 1, 1)
    x = centred / (jnp.sqrt(variance + _RECU_VARIANCE) / _RECU_UNIT)
    bound = -jnp.mean(jnp.abs(x)) * jnp.log(2 - 2 * tau(variables, x.dtype))
    bound = jax.lax.stop_gradient(bound)
    return jnp.clip(x, -bound, bound).astype(w.dtype)

  return bwn(clip=None)._replace(
    init=lambda w: jnp.zeros((), jnp.int32),
    preprocess=preprocess,
    calibrate=_calibrated(preprocess),
    update=lambda variables, w_tilde, w_hat, g_hat: variables + 1,
  )
