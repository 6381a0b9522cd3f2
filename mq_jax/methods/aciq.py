"""ACIQ: optimal clips under a prior, for post-training quantization."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mq_jax.checks import check_bits, check_choice
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables

Array = jax.Array
PRIORS = ('laplace', 'normal', 'range')


def best_clip(prior: str, bits: int) -> float:
  """Returns the clip α with the smallest mean squared error under a prior.

  With 2ᵏ even levels from −α to α, the derivative of the error is zero if

    α / (3 · 4ᵏ) = b exp(−α/b)                     Laplace, b = E|x − μ|
    α / (3 · 4ᵏ) = 2 (σ pdf(α/σ) − α (1 − cdf(α/σ)))       normal

  Args:
    prior: 'laplace' or 'normal'.
    bits: k, at least 1.

  Returns:
    α in units of the scale of the prior: α/b (2.83, 3.89, 5.03 at 2, 3, 4 bits)
    or α/σ (1.71, 2.15, 2.55).

  Raises:
    ValueError: If `prior` is neither 'laplace' nor 'normal'.

  References:
    Banner, Nahshan, Hoffer, Soudry, `ACIQ <https://arxiv.org/abs/1810.05723>`_,
    2019, eqs. (5) to (7)
  """

  def laplace(c: float) -> float:
    return math.exp(-c)

  def normal(c: float) -> float:
    density = math.exp(-(c**2) / 2) / math.sqrt(2 * math.pi)
    return 2 * (density - c * math.erfc(c / math.sqrt(2)) / 2)

  tails = {'laplace': laplace, 'normal': normal}
  check_choice('prior', prior, tuple(tails))
  low, high = 0.0, 100.0
  for _ in range(100):
    middle = (low + high) / 2
    if middle / (3 * 4**bits) < tails[prior](middle):
      low = middle
    else:
      high = middle
  return low


@prints_call
def aciq(
  bits: int,
  *,
  per_channel: bool = True,
  prior: str = 'laplace',
  corrected: bool = True,
) -> Quantizer:
  """Quantizes to 2ᵏ even levels between clips, per channel or layer.

  The clips are μ ± α of `best_clip`, or the smallest and largest weight
  ('range', the naive form), and one level is 0. The correction then scales and
  shifts the levels to keep the mean and the standard deviation of the weights
  of each channel or layer. After the correction 0 is no longer a level. ACIQ
  needs no training: apply it to a trained network by
  `mq_jax.quantize(aciq(4), w, ())`.

  Args:
    bits: k, 1 to 8.
    per_channel: True if each output channel, the last axis, has its own clips.
    prior: 'laplace', 'normal' or 'range'.
    corrected: True if the levels keep the mean and the deviation.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8 or `prior` is unknown.

  References:
    Banner, Nahshan, Soudry, `Post training 4-bit quantization of convolutional
    networks for rapid-deployment <https://arxiv.org/abs/1810.05723>`_, 2019,
    sections 2 to 5, without its allocation of bits to channels.
  """
  check_bits(bits, 1, 8)
  check_choice('prior', prior, PRIORS)
  steps = 2**bits - 1
  clip = 0.0 if prior == 'range' else best_clip(prior, bits)

  def axes(w: Array) -> tuple[int, ...]:
    return tuple(range(w.ndim - per_channel))

  def clips(w: Array) -> tuple[Array, Array]:
    def reduce(function: Callable[..., Array], x: Array) -> Array:
      return function(x, axis=axes(w), keepdims=True)

    if prior == 'range':
      return reduce(jnp.min, w), reduce(jnp.max, w)
    mean = reduce(jnp.mean, w)
    size = reduce(jnp.mean, jnp.abs(w - mean))
    alpha = clip * (size if prior == 'laplace' else reduce(jnp.std, w))
    return mean - alpha, mean + alpha

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    low, high = clips(w_tilde)
    width = high - low
    scale = jnp.where(width > 0, width, 1) / steps
    zero = jnp.floor(-low / scale + 0.5)
    code = jnp.clip(jnp.floor(w_tilde / scale + 0.5) + zero, 0, steps)
    grid = jnp.arange(steps + 1, dtype=w_tilde.dtype)
    grid = grid.reshape((1,) * w_tilde.ndim + (steps + 1,))
    levels = (grid - zero[..., None]) * scale[..., None]
    if corrected:
      w_hat = (code - zero) * scale
      levels = _corrected(levels, w_tilde, w_hat, axes(w_tilde))
    code = code.astype(jnp.uint8)
    return code, levels if per_channel else levels.reshape(steps + 1)

  return Quantizer(codes)


def _corrected(
  levels: Array, w: Array, w_hat: Array, axes: tuple[int, ...]
) -> Array:
  """Returns levels that keep the mean and the deviation of the weights."""
  mean, mean_hat = (
    jnp.mean(x, axis=axes, keepdims=True)[..., None] for x in (w, w_hat)
  )
  spread, spread_hat = (
    jnp.std(x, axis=axes, keepdims=True)[..., None] for x in (w, w_hat)
  )
  # If all weights have the same level, there is no deviation to scale.
  ratio = jnp.where(
    spread_hat > 0, spread / jnp.where(spread_hat > 0, spread_hat, 1), 1
  )
  return (levels - mean_hat) * ratio + mean
