"""Quantizers of language models: SEQ of ParetoQ, and BitNet's ternary."""

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.checks import check_positive
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables, w_itself

Array = jax.Array
SEQ_LEVELS = (3, 4)


@prints_call
def seq(levels: int = 4) -> Quantizer:
  """Quantizes to the middles of equal parts of [−α, α], as SEQ does.

  With n = levels / 2, Ŵ = α (round(n W/α − s) + s) / n, s = ½ if `levels` is
  even and 0 if it is odd. The parts have the same width, also the outermost.
  α is max|W| of the layer; the authors train it. The gradient passes unchanged.

  Args:
    levels: 3 (1.58 bits) or 4 (2 bits).

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `levels` is neither 3 nor 4.

  References:
    Liu et al., `ParetoQ <https://arxiv.org/abs/2502.02631>`_, 2025, eq. (5),
    and the authors' code
  """
  if levels not in SEQ_LEVELS:
    raise ValueError(f'levels={levels!r} must be one of {SEQ_LEVELS}.')

  # Each number is rounded once, so each level has an exact opposite.
  middles = np.arange(1 - levels, levels, 2) / levels

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    w = widened(w_tilde)
    largest = jnp.max(jnp.abs(w))
    share = w / jnp.where(largest > 0, largest, 1)
    # The middles of `levels` equal parts of [−1, 1].
    code = jnp.floor((share + 1) / 2 * levels)
    table = largest * jnp.asarray(middles, w.dtype)
    return (
      jnp.clip(code, 0, levels - 1).astype(jnp.uint8),
      table.astype(w_tilde.dtype),
    )

  return Quantizer(codes, unrounded=w_itself)


@prints_call
def absmean(*, scale: float = 1.0) -> Quantizer:
  """Quantizes to α · {−1, 0, +1} with α the mean of |W|, as BitNet b1.58 does.

  The code is round(clip(W/α, −1, 1)); halves round upwards. The gradient passes
  unchanged.

  Args:
    scale: Factor of mean|W|.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `scale` is not positive.

  Examples:
    >>> import jax.numpy as jnp
    >>> w = jnp.array([2.0, 0.4, -3.6, 0.0])
    >>> print(mq_jax.quantize(mq_jax.methods.absmean(), w, ()))
    [ 1.5  0.  -1.5  0. ]

  References:
    Ma et al., `The Era of 1-bit LLMs <https://arxiv.org/abs/2402.17764>`_,
    2024, eqs. (1) to (3)
  """
  check_positive(scale=scale)

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    w = widened(w_tilde)
    mean = scale * jnp.mean(jnp.abs(w))
    alpha = jnp.where(mean > 0, mean, 1)
    code = jnp.floor(jnp.clip(w / alpha, -1, 1) + 0.5) + 1
    levels = alpha * jnp.arange(-1, 2, dtype=w.dtype)
    return code.astype(jnp.uint8), levels.astype(w_tilde.dtype)

  return Quantizer(codes, unrounded=w_itself)
