"""Quantized activations: functions with the gradients of their papers.

Each takes activations of any shape; those with a trained number take it as
well, so that it is an ordinary parameter of the network. Halves round upwards.
Networks take one as an `Activation`, which says what they have to know of it:
`Activation(bi_real_sign, signed=True, binary=True)`,
`Activation(dorefa_activation(2))`, `Activation(pact(4), start=10.0)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.checks import check_bits

Array = jax.Array

# Levels of half-wave Gaussian quantization beside 0, by the number of bits:
# evenly spaced, the step that is best for the positive half of a normal.
_HALF_GAUSSIAN_STEPS = {1: 0.7979, 2: 0.538, 3: 0.3217, 4: 0.184}


class Activation(NamedTuple):
  """What quantizes the inputs of a network's layers.

  Attributes:
    function: `(x) -> y`, or `(x, number) -> y` where it has a trained number; x
      has any shape, its first axis is the batch, and y has the shape of x.
    start: First value of the trained number, a scalar; None: it has none.
    signed: Whether the outputs have both signs, so that nothing may rectify
      before it. Where it is False, `function` gets rectified x.
    binary: Whether the outputs are −1 and +1 and nothing else, so that bits can
      be counted: `sign` and `bi_real_sign`.
  """

  function: Callable[..., Array]
  start: float | None = None
  signed: bool = False
  binary: bool = False


def _with_slope(value: Array, *slopes: tuple[Array, Array]) -> Array:
  """`value`, whose derivative with respect to each `x` is `slope`."""
  total = lax.stop_gradient(value)
  for x, slope in slopes:
    total = total + (x - lax.stop_gradient(x)) * lax.stop_gradient(slope)
  return total


def _rounded(x: Array) -> Array:
  return jnp.floor(x + 0.5)


def sign(x: Array) -> Array:
  """±1, with the gradient 1[|x| ≤ 1]; sign(0) = +1.

  References:
    Hubara et al., `Binarized Neural Networks
    <https://arxiv.org/abs/1602.02830>`_, 2016, eq. (4)
  """
  value = jnp.where(x >= 0, 1, -1).astype(x.dtype)
  return _with_slope(value, (x, (jnp.abs(x) <= 1).astype(x.dtype)))


def bi_real_sign(x: Array) -> Array:
  """±1, with the gradient max(0, 2 − 2|x|), that of a piecewise parabola.

  References:
    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, 2018, eq. (5)
  """
  value = jnp.where(x >= 0, 1, -1).astype(x.dtype)
  return _with_slope(value, (x, jnp.maximum(2 - 2 * jnp.abs(x), 0)))


def dorefa_activation(bits: int) -> Callable[[Array], Array]:
  """round((2ᵏ−1) clip(x, 0, 1)) / (2ᵏ−1), with the gradient 1[0 ≤ x ≤ 1].

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
  check_bits(bits, 1, 8)
  steps = 2**bits - 1

  def activation(x: Array) -> Array:
    value = _rounded(steps * jnp.clip(x, 0, 1)) / steps
    return _with_slope(value, (x, ((x >= 0) & (x <= 1)).astype(x.dtype)))

  return activation


def hwgq(bits: int) -> Callable[[Array], Array]:
  """Half-wave Gaussian quantization: 0 for x ≤ 0, else the nearest level.

  The 2ᵏ − 1 positive levels are evenly spaced, the best for a normal x, so a
  batch norm without scale and shift has to come before. The gradient is that of
  a ReLU clipped at the largest level.

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
  check_bits(bits, 1, 4)
  step, number = _HALF_GAUSSIAN_STEPS[bits], 2**bits - 1

  def activation(x: Array) -> Array:
    nearest = jnp.clip(_rounded(x / step), 1, number) * step
    value = jnp.where(x > 0, nearest, jnp.zeros_like(x)).astype(x.dtype)
    inside = (x > 0) & (x <= step * number)
    return _with_slope(value, (x, inside.astype(x.dtype)))

  return activation


def pact(bits: int) -> Callable[[Array, Array], Array]:
  """round(clip(x, 0, α) (2ᵏ−1)/α) α/(2ᵏ−1), with a trained clip α.

  The gradient is 1[0 ≤ x < α] for x and 1[x ≥ α] for α. The authors start α at
  a large value, such as 10, and decay it like a weight.

  Args:
    bits: k, 1 to 8.

  Returns:
    `(x, alpha) -> y`; `alpha` is a scalar.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.

  References:
    Choi et al., `PACT <https://arxiv.org/abs/1805.06085>`_, 2018, eqs. (1) to
    (3)
  """
  check_bits(bits, 1, 8)
  steps = 2**bits - 1

  def activation(x: Array, alpha: Array) -> Array:
    share = jnp.clip(x / alpha, 0, 1)
    value = _rounded(share * steps) * (alpha / steps)
    beyond = (x >= alpha).astype(x.dtype)
    inside = ((x >= 0) & (x < alpha)).astype(x.dtype)
    return _with_slope(value, (x, inside), (alpha, beyond))

  return activation


def lsq_activation(bits: int) -> Callable[[Array, Array], Array]:
  """s · round(clip(x/s, 0, Q_p)), Q_p = 2ᵏ − 1, with a trained step s.

  The gradient is 1[0 < x/s < Q_p] for x, and for s the difference between
  round(x/s) and x/s inside, 0 below and Q_p beyond, times 1/√(n · Q_p), n the
  number of activations of one example.

  Args:
    bits: k, 1 to 8.

  Returns:
    `(x, step) -> y`; `step` is a scalar, and the first axis of `x` the batch.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.

  References:
    Esser et al., `Learned Step Size Quantization
    <https://arxiv.org/abs/1902.08153>`_, 2020, eqs. (1) to (3)
  """
  check_bits(bits, 1, 8)
  most = 2**bits - 1

  def activation(x: Array, step: Array) -> Array:
    ratio = x / step
    whole = _rounded(jnp.clip(ratio, 0, most))
    inside = (ratio > 0) & (ratio < most)
    slope = jnp.where(inside, whole - ratio, jnp.where(ratio > 0, most, 0))
    scale = 1 / jnp.sqrt(jnp.asarray(x[0].size * most, x.dtype))
    return _with_slope(
      whole * step, (x, inside.astype(x.dtype)), (step, slope * scale)
    )

  return activation
