"""ACIQ: optimal clips under a prior, for post-training quantization."""

import math

import jax
import jax.numpy as jnp

from mq_jax.checks import check_bits, check_choice, check_switch
from mq_jax.precision import widened
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
  prior: str = 'laplace',
  corrected: bool = True,
) -> Quantizer:
  """Quantizes to 2ᵏ even levels between the clips of a prior.

  The clips are μ ± α of `best_clip`, or the smallest and largest weight
  ('range', the naive form), and one level is 0. The correction then scales and
  shifts the levels to keep the mean and the standard deviation of the weights.
  After the correction 0 is no longer a level. In the paper each output channel
  has its own clips, `per(aciq(4), axes=-1)`. ACIQ needs no training: apply it
  to a trained network by `mq_jax.quantize(per(aciq(4), axes=-1), w, ())`.

  Args:
    bits: k, 1 to 8.
    prior: 'laplace', 'normal' or 'range'.
    corrected: True if the levels keep the mean and the deviation.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8 or `prior` is unknown.
    TypeError: If `corrected` is not a bool.

  References:
    Banner, Nahshan, Soudry, `Post training 4-bit quantization of convolutional
    networks for rapid-deployment <https://arxiv.org/abs/1810.05723>`_, 2019,
    sections 2 to 5, without its allocation of bits to channels.
  """
  bits = check_bits(bits, 1, 8)
  check_choice('prior', prior, PRIORS)
  check_switch(corrected=corrected)
  steps = 2**bits - 1
  clip = 0.0 if prior == 'range' else best_clip(prior, bits)

  def clips(w: Array) -> tuple[Array, Array]:
    if prior == 'range':
      return jnp.min(w), jnp.max(w)
    mean = jnp.mean(w)
    laplace = prior == 'laplace'
    size = jnp.mean(jnp.abs(w - mean)) if laplace else jnp.std(w)
    return mean - clip * size, mean + clip * size

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    w = widened(w_tilde)
    low, high = clips(w)
    width = high - low
    scale = jnp.where(width > 0, width, 1) / steps
    zero = jnp.floor(-low / scale + 0.5)
    code = jnp.clip(jnp.floor(w / scale + 0.5) + zero, 0, steps)
    levels = (jnp.arange(steps + 1, dtype=w.dtype) - zero) * scale
    if corrected:
      levels = _corrected(levels, w, (code - zero) * scale)
    return code.astype(jnp.uint8), levels.astype(w_tilde.dtype)

  return Quantizer(codes)


def _corrected(levels: Array, w: Array, w_hat: Array) -> Array:
  """Returns levels that keep the mean and the deviation of the weights."""
  spread, spread_hat = jnp.std(w), jnp.std(w_hat)
  # If all weights have the same level, there is no deviation to scale.
  ratio = jnp.where(
    spread_hat > 0, spread / jnp.where(spread_hat > 0, spread_hat, 1), 1
  )
  return (levels - jnp.mean(w_hat)) * ratio + jnp.mean(w)
