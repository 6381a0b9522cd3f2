"""Ternary weights: fixed levels (TWN) and trained ones (TTQ)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax.quantizers import Quantizer, Variables

Array = jax.Array
_MINUS, _ZERO, _PLUS = 0, 1, 2  # codes


def twn(threshold: float = 0.7, two_scales: bool = False) -> Quantizer:
  """Ternary weight networks: Ŵ = α · {−1, 0, +1}.

  W̃ = W, Δ = threshold · mean|W|, and α the mean of |W| where |W| > Δ, both of
  the layer. The gradient is handed on unchanged.

  Args:
    threshold: Of the mean; the paper's 0.7 lies between the best values for
      uniform (2/3) and normal weights (0.77).
    two_scales: One α for the weights above Δ and one for those below −Δ, as
      ProxQuant projects.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `threshold` is negative.

  References:
    Li, Zhang, Liu, `Ternary Weight Networks
    <https://arxiv.org/abs/1605.04711>`_, 2016, eqs. (3) to (6). That the mean
    is the layer's, and not a filter's, is ProxQuant's code, not the text.
  """
  if not threshold >= 0:
    raise ValueError(f'threshold={threshold!r} must be at least 0.')

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    del variables
    size = jnp.abs(w_tilde)
    delta = threshold * jnp.mean(size)

    def mean(chosen: Array) -> Array:
      # There need not be any: a layer of zeros has none.
      return jnp.sum(size * chosen) / jnp.maximum(jnp.sum(chosen), 1)

    if two_scales:
      plus, minus = mean(w_tilde > delta), mean(w_tilde < -delta)
    else:
      plus = minus = mean(size > delta)
    return _codes(w_tilde, delta), jnp.stack([-minus, 0 * plus, plus])

  return Quantizer(codes)


class TrainedScales(NamedTuple):
  """What `ttq` keeps of a layer.

  Attributes:
    scales: W_p and W_n, shape (2,).
    optimizer: State of their optimizer.
  """

  scales: Array
  optimizer: optax.OptState


def ttq(
  threshold: float = 0.05,
  optimizer: optax.GradientTransformation = optax.sgd(1e-3),
) -> Quantizer:
  """Trained ternary quantization: Ŵ is one of −W_n, 0, W_p.

  W̃ = W and Δ = threshold · max|W|. The two scales of a layer start at 1 and
  are trained:

    ∂loss/∂W_p = Σ g_hat where W > Δ,   ∂loss/∂W_n = −Σ g_hat where W < −Δ,
    g_W = {W_p | 1 | W_n} · g_hat.

  The minus is what −W_n demands; a widespread implementation leaves it out,
  and ascends.

  Args:
    threshold: t, of the layer's largest |W|.
    optimizer: Of the scales, with its learning rate. The authors take that of
      the weights, weight decay included.

  Returns:
    A `Quantizer` with `TrainedScales`.

  Raises:
    ValueError: If `threshold` is not in [0, 1].

  References:
    Zhu, Han, Mao, Dally, `Trained Ternary Quantization
    <https://arxiv.org/abs/1612.01064>`_, 2017, eqs. (6) to (9), and their code:
    it does not normalise W first, as the text has it.
  """
  if not 0 <= threshold <= 1:
    raise ValueError(f'threshold={threshold!r} must lie in [0, 1].')

  def init(w: Array) -> TrainedScales:
    scales = jnp.ones(2, w.dtype)
    return TrainedScales(scales, optimizer.init(scales))

  def codes_of(w_tilde: Array) -> Array:
    return _codes(w_tilde, threshold * jnp.max(jnp.abs(w_tilde)))

  def codes(w_tilde: Array, variables: TrainedScales) -> tuple[Array, Array]:
    plus, minus = variables.scales
    return codes_of(w_tilde), jnp.stack([-minus, jnp.zeros_like(plus), plus])

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: TrainedScales
  ) -> Array:
    plus, minus = variables.scales
    return (
      jnp.stack([minus, jnp.ones_like(plus), plus])[codes_of(w_tilde)] * g_hat
    )

  def update(
    variables: TrainedScales, w_tilde: Array, w_hat: Array, g_hat: Array
  ) -> TrainedScales:
    del w_hat
    code = codes_of(w_tilde)
    gradient = jnp.stack(
      [
        jnp.sum(g_hat, where=code == _PLUS),
        -jnp.sum(g_hat, where=code == _MINUS),
      ]
    )
    moves, state = optimizer.update(
      gradient, variables.optimizer, variables.scales
    )
    return TrainedScales(optax.apply_updates(variables.scales, moves), state)

  return Quantizer(
    codes, init=init, straight_through=straight_through, update=update
  )


def _codes(w: Array, delta: Array) -> Array:
  return (_ZERO + (w > delta) - (w < -delta)).astype(jnp.uint8)
