"""Quantized activations: functions with the gradients of their papers.

The functions take activations of any shape and return their dtype; narrow
types are rounded in float32. +∞ and −∞ give the values of the largest and the
smallest finite input, and NaN stays NaN. A function with a trained number takes
it as a second argument, so that the number is an ordinary parameter of the
network; the result is NaN if the number is not positive. Halves round upwards.
Networks take an `Activation`, which declares the properties of the function:
`Activation(dorefa_activation(2))`,
`Activation(bi_real_sign, signed=True, binary=True)`,
`Activation(pact(4), start=10.0)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.checks import check_bits
from mq_jax.precision import widened

Array = jax.Array

# Step of half-wave Gaussian quantization by the number of bits: the best evenly
# spaced levels for the positive half of a normal distribution.
_HALF_GAUSSIAN_STEPS = {1: 0.7979, 2: 0.538, 3: 0.3217, 4: 0.184}


class Activation(NamedTuple):
  """A function that quantizes the inputs of layers, and its properties.

  Attributes:
    function: `(x) -> y`, or `(x, number) -> y` with a trained number; x has any
      shape, its first axis is the batch, and y has the shape of x.
    start: Initial value of the trained number, a scalar. None if `function` has
      no trained number.
    signed: True if the outputs have both signs, so that no ReLU may precede
      `function`. If False, `function` receives rectified x.
    binary: True if all outputs are −1 or +1, as for `sign` and `bi_real_sign`,
      so that layers can count bits.
  """

  function: Callable[..., Array]
  start: float | None = None
  signed: bool = False
  binary: bool = False


def _with_slope(value: Array, *slopes: tuple[Array, Array]) -> Array:
  """Returns `value` with the derivative `slope` with respect to each `x`.

  The result has the dtype of the first x. NaN stays NaN. At ±∞, where x − x is
  not 0, the derivative is 0.
  """
  dtype = slopes[0][0].dtype
  total = lax.stop_gradient(value).astype(dtype)
  for x, slope in slopes:
    finite = jnp.where(jnp.isinf(x), jnp.zeros_like(x), x)
    zero = finite - lax.stop_gradient(finite)
    total = total + (zero * lax.stop_gradient(slope)).astype(dtype)
  return total


def _where_positive(number: Array, value: Array) -> Array:
  return jnp.where(number > 0, value, jnp.nan)


def _round_half_up(x: Array) -> Array:
  return jnp.floor(x + 0.5)


def sign(x: Array) -> Array:
  """Returns ±1, with the gradient 1[|x| ≤ 1]; sign(0) = +1.

  References:
    Hubara et al., `Binarized Neural Networks
    <https://arxiv.org/abs/1602.02830>`_, 2016, eq. (4)
  """
  value = jnp.where(x >= 0, 1, -1).astype(x.dtype)
  return _with_slope(value, (x, (jnp.abs(x) <= 1).astype(x.dtype)))


def bi_real_sign(x: Array) -> Array:
  """Returns ±1, with the gradient max(0, 2 − 2|x|) of a piecewise parabola.

  References:
    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, 2018, eq. (5)
  """
  value = jnp.where(x >= 0, 1, -1).astype(x.dtype)
  return _with_slope(value, (x, jnp.maximum(2 - 2 * jnp.abs(x), 0)))


def dorefa_activation(bits: int) -> Callable[[Array], Array]:
  """Returns DoReFa's activation, round((2ᵏ−1) clip(x, 0, 1)) / (2ᵏ−1).

  The gradient is 1[0 ≤ x ≤ 1].

  Args:
    bits: k, 1 to 8.

  Returns:
    `(x) -> y`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.

  References:
    Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016,
    eq. (11)
  """
  bits = check_bits(bits, 1, 8)
  steps = 2**bits - 1

  def activation(x: Array) -> Array:
    value = _round_half_up(steps * jnp.clip(widened(x), 0, 1)) / steps
    return _with_slope(value, (x, ((x >= 0) & (x <= 1)).astype(x.dtype)))

  return activation


def hwgq(bits: int) -> Callable[[Array], Array]:
  """Returns half-wave Gaussian quantization.

  x ≤ 0 becomes 0, and x > 0 the nearest of 2ᵏ − 1 positive levels. The levels
  are evenly spaced and optimal for a normal x, so x must be the output of a
  batch norm without scale and shift. The gradient is that of a ReLU clipped at
  the largest level.

  Args:
    bits: k, 1 to 4.

  Returns:
    `(x) -> y`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 4.

  References:
    Cai et al., `Deep Learning with Low Precision by Half-wave Gaussian
    Quantization <https://arxiv.org/abs/1702.00953>`_, 2017, eqs. (12) and (21)
  """
  bits = check_bits(bits, 1, 4)
  step, largest = _HALF_GAUSSIAN_STEPS[bits], 2**bits - 1

  def activation(x: Array) -> Array:
    wide = widened(x)
    nearest = jnp.clip(_round_half_up(wide / step), 1, largest) * step
    value = jnp.where(wide > 0, nearest, jnp.zeros_like(wide))
    inside = (wide > 0) & (wide <= step * largest)
    return _with_slope(value, (x, inside.astype(x.dtype)))

  return activation


def absmax(bits: int) -> Callable[[Array], Array]:
  """Returns round(clip(q x/γ, −q, q)) γ/q, with γ = max|x| over the last axis.

  q = 2ᵏ⁻¹ − 1. Each token has its own γ, which is constant in the gradient; the
  gradient is 1. A token of zeros stays zero.

  Args:
    bits: k, 2 to 8.

  Returns:
    `(x) -> y`.

  Raises:
    ValueError: If `bits` is not an integer from 2 to 8.

  References:
    Ma et al., `The Era of 1-bit LLMs <https://arxiv.org/abs/2402.17764>`_,
    2024, section 2, and Wang et al., `BitNet
    <https://arxiv.org/abs/2310.11453>`_, 2023, eq. (4)
  """
  bits = check_bits(bits, 2, 8)
  q = 2 ** (bits - 1) - 1

  def activation(x: Array) -> Array:
    wide = widened(x)
    size = jnp.where(jnp.isinf(wide), 0, jnp.abs(wide))
    largest = jnp.max(size, axis=-1, keepdims=True)
    largest = jnp.where(largest == 0, 1, largest)
    code = jnp.clip(_round_half_up(wide / largest * q), -q, q)
    value = code * (largest / q)
    return _with_slope(value, (x, jnp.ones_like(x)))

  return activation


def pact(bits: int) -> Callable[[Array, Array], Array]:
  """Returns PACT, round(clip(x, 0, α) (2ᵏ−1)/α) α/(2ᵏ−1), with a trained α.

  The gradient is 1[0 ≤ x < α] for x and 1[x ≥ α] for α. The authors start α at
  a large value, such as 10, and decay it like a weight.

  Args:
    bits: k, 1 to 8.

  Returns:
    `(x, alpha) -> y`; `alpha` is a scalar.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.

  References:
    Choi et al., `PACT <https://arxiv.org/abs/1805.06085>`_, 2018, eqs. (1)-(3)
  """
  bits = check_bits(bits, 1, 8)
  steps = 2**bits - 1

  def activation(x: Array, alpha: Array) -> Array:
    alpha = jnp.asarray(alpha)
    wide, clip = widened(x), widened(alpha)
    share = jnp.clip(wide / clip, 0, 1)
    value = _round_half_up(share * steps) * (clip / steps)
    beyond = (wide >= clip).astype(wide.dtype)
    inside = ((wide >= 0) & (wide < clip)).astype(x.dtype)
    value = _where_positive(clip, value)
    return _with_slope(value, (x, inside), (alpha, beyond))

  return activation


def lsq_activation(bits: int) -> Callable[[Array, Array], Array]:
  """Returns LSQ's activation, s · round(clip(x/s, 0, Q_p)), Q_p = 2ᵏ − 1.

  The step s is trained. The gradient of x is 1[0 < x/s < Q_p]. The gradient of
  s is round(x/s) − x/s inside this range, 0 below and Q_p above, times
  1/√(n · Q_p), with n activations per example.

  Args:
    bits: k, 1 to 8.

  Returns:
    `(x, step) -> y`; `step` is a scalar, the first axis of `x` the batch.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.

  References:
    Esser et al., `Learned Step Size Quantization
    <https://arxiv.org/abs/1902.08153>`_, 2020, eqs. (1) to (3)
  """
  bits = check_bits(bits, 1, 8)
  q_max = 2**bits - 1

  def activation(x: Array, step: Array) -> Array:
    step = jnp.asarray(step)
    size = widened(step)
    ratio = widened(x) / size
    rounded = _round_half_up(jnp.clip(ratio, 0, q_max))
    inside = (ratio > 0) & (ratio < q_max)
    slope = jnp.where(inside, rounded - ratio, jnp.where(ratio > 0, q_max, 0))
    scale = 1 / jnp.sqrt(jnp.asarray(x[0].size * q_max, ratio.dtype))
    value = _where_positive(size, rounded * size)
    return _with_slope(
      value, (x, inside.astype(x.dtype)), (step, slope * scale)
    )

  return activation
