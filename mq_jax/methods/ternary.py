"""Ternary weights: fixed levels (TWN) and trained ones (TTQ)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax.checks import check_at_least, check_number, check_switch
from mq_jax.direction import check_transformation, optimizer_check
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables

Array = jax.Array
_MINUS, _ZERO, _PLUS = 0, 1, 2  # codes


@prints_call
def twn(*, threshold: float = 0.7, two_scales: bool = False) -> Quantizer:
  """Quantizes to α · {−1, 0, +1}, as ternary weight networks do.

  W̃ = W, Δ = threshold · mean|W| of the layer, and α is the mean of |W| over
  |W| > Δ. The gradient passes unchanged.

  Args:
    threshold: Δ in units of the mean. The paper's 0.7 is between the best
      values for uniform (2/3) and normal weights (0.77).
    two_scales: True if α is separate above Δ and below −Δ, as in ProxQuant.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `threshold` is negative.
    TypeError: If `two_scales` is not a bool.

  References:
    Li, Zhang, Liu, `Ternary Weight Networks
    <https://arxiv.org/abs/1605.04711>`_, 2016, eqs. (3) to (6). The mean
    per layer, not per filter, follows ProxQuant's code, not the text.
  """
  check_at_least(0, threshold=threshold)
  check_switch(two_scales=two_scales)

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    size = jnp.abs(widened(w_tilde))
    delta = threshold * jnp.mean(size)

    def mean(chosen: Array) -> Array:
      # A layer of zeros chooses no weights.
      return jnp.sum(size * chosen) / jnp.maximum(jnp.sum(chosen), 1)

    if two_scales:
      plus, minus = mean(w_tilde > delta), mean(w_tilde < -delta)
    else:
      plus = minus = mean(size > delta)
    levels = jnp.stack([-minus, 0 * plus, plus]).astype(w_tilde.dtype)
    return _codes(w_tilde, delta), levels

  return Quantizer(codes)


class TrainedScales(NamedTuple):
  """Variables of `ttq` for one layer.

  Attributes:
    scales: W_p and W_n, shape (2,), in float32 or wider.
    optimizer: State of the optimizer of the scales.
  """

  scales: Array
  optimizer: optax.OptState


@prints_call
def ttq(
  *,
  threshold: float = 0.05,
  optimizer: optax.GradientTransformation = optax.sgd(1e-3),
) -> Quantizer:
  """Quantizes to −W_n, 0 or W_p with trained scales W_n and W_p per layer.

  W̃ = W and Δ = threshold · max|W|. The scales start at 1. The gradients are

    ∂loss/∂W_p = Σ g_hat where W > Δ,   ∂loss/∂W_n = −Σ g_hat where W < −Δ,
    g_W = {W_p | 1 | W_n} · g_hat.

  The minus sign follows from −W_n. A widespread implementation omits it, so its
  W_n ascends the gradient.

  Args:
    threshold: t, Δ in units of the largest |W| of the layer.
    optimizer: Optimizer of the scales, including the learning rate. The authors
      use the optimizer of the weights, including weight decay.

  Returns:
    A `Quantizer` with `TrainedScales`; its `init` raises `ValueError` if
    `optimizer` moves the scales along their gradient.

  Raises:
    ValueError: If `threshold` is not in [0, 1].
    TypeError: If `optimizer` is not an optax transformation.

  References:
    Zhu, Han, Mao, Dally, `Trained Ternary Quantization
    <https://arxiv.org/abs/1612.01064>`_, 2017, eqs. (6) to (9), and their code,
    which does not normalise W first, unlike the text.
  """
  check_number(threshold=threshold)
  if not 0 <= threshold <= 1:
    raise ValueError(f'threshold={threshold!r} must be in [0, 1].')
  check_transformation('optimizer', optimizer)
  check_optimizer = optimizer_check('optimizer', 'the scales', optimizer)

  def init(w: Array) -> TrainedScales:
    check_optimizer()
    scales = jnp.ones(2, widened(w).dtype)
    return TrainedScales(scales, optimizer.init(scales))

  def codes_of(w_tilde: Array) -> Array:
    return _codes(w_tilde, threshold * jnp.max(jnp.abs(widened(w_tilde))))

  def codes(w_tilde: Array, variables: TrainedScales) -> tuple[Array, Array]:
    plus, minus = variables.scales
    levels = jnp.stack([-minus, jnp.zeros_like(plus), plus])
    return codes_of(w_tilde), levels.astype(w_tilde.dtype)

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: TrainedScales
  ) -> Array:
    plus, minus = variables.scales
    factors = jnp.stack([minus, jnp.ones_like(plus), plus])
    return (factors[codes_of(w_tilde)] * g_hat).astype(g_hat.dtype)

  def update(
    variables: TrainedScales, w_tilde: Array, w_hat: Array, g_hat: Array
  ) -> TrainedScales:
    code, g = codes_of(w_tilde), widened(g_hat)
    d_plus = jnp.sum(g, where=code == _PLUS)
    d_minus = -jnp.sum(g, where=code == _MINUS)
    moves, state = optimizer.update(
      jnp.stack([d_plus, d_minus]), variables.optimizer, variables.scales
    )
    return TrainedScales(optax.apply_updates(variables.scales, moves), state)

  return Quantizer(
    codes, init=init, straight_through=straight_through, update=update
  )


def _codes(w: Array, delta: Array) -> Array:
  return (_ZERO + (w > delta) - (w < -delta)).astype(jnp.uint8)
