"""Learned step size (LSQ): a uniform grid whose step is trained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax.checks import check_bits
from mq_jax.direction import check_transformation, optimizer_check
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables, w_itself

Array = jax.Array


class TrainedStep(NamedTuple):
  """Variables of `lsq` for one layer.

  Attributes:
    step: s, shape (), in float32 or wider.
    optimizer: State of the optimizer of s.
  """

  step: Array
  optimizer: optax.OptState


@prints_call
def lsq(
  bits: int, *, optimizer: optax.GradientTransformation = optax.sgd(1e-2)
) -> Quantizer:
  """Quantizes to s · round(clip(W/s, −Q_n, Q_p)), with a trained s per layer.

  Q_n = 2ᵇ⁻¹ and Q_p = 2ᵇ⁻¹ − 1; s starts at 2 mean|W| / √Q_p. The gradient of
  the weights is g_hat · 1[−Q_n < W/s < Q_p]. The gradient of s is

    Σ g_hat · (round(W/s) − W/s  inside;  −Q_n or Q_p outside) / √(n · Q_p)

  with n weights in the layer. Halves round upwards.

  Args:
    bits: b, 2 to 8. For 1 bit Q_p would be 0: use `bwn`.
    optimizer: Optimizer of s, including the learning rate. The authors use the
      optimizer of the weights.

  Returns:
    A `Quantizer` with `TrainedStep`; its `init` raises `ValueError` if
    `optimizer` moves s along its gradient.

  Raises:
    ValueError: If `bits` is not an integer from 2 to 8.
    TypeError: If `optimizer` is not an optax transformation.

  References:
    Esser, McKinstry, Bablani, Appuswamy, Modha, `Learned Step Size
    Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, eqs. (1) to (5) and
    section 2.2. The paper does not treat a step that crosses zero; here an
    update divides s by at most 1000.
  """
  bits = check_bits(bits, 2, 8, '; use bwn for 1 bit')
  check_transformation('optimizer', optimizer)
  check_optimizer = optimizer_check('optimizer', 's', optimizer)
  q_max, q_min = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))

  def start(w: Array) -> Array:
    mean = jnp.mean(jnp.abs(widened(w)))
    size = 2 * mean / jnp.sqrt(jnp.asarray(q_max, mean.dtype))
    return jnp.where(size > 0, size, 1)  # a layer of zeros has no scale

  def init(w: Array) -> TrainedStep:
    check_optimizer()
    return TrainedStep(start(w), optimizer.init(start(w)))

  def scaled(w_tilde: Array, variables: TrainedStep) -> Array:
    return widened(w_tilde) / variables.step

  def rounded(ratio: Array) -> Array:
    return jnp.clip(jnp.floor(ratio + 0.5), q_min, q_max)

  def codes(w_tilde: Array, variables: TrainedStep) -> tuple[Array, Array]:
    grid = jnp.arange(q_min, q_max + 1, dtype=variables.step.dtype)
    code = rounded(scaled(w_tilde, variables)) - q_min
    levels = (grid * variables.step).astype(w_tilde.dtype)
    return code.astype(jnp.uint8), levels

  def inside(ratio: Array) -> Array:
    return (ratio > q_min) & (ratio < q_max)

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: TrainedStep
  ) -> Array:
    return g_hat * inside(scaled(w_tilde, variables))

  def update(
    variables: TrainedStep, w_tilde: Array, w_hat: Array, g_hat: Array
  ) -> TrainedStep:
    ratio = scaled(w_tilde, variables)
    slope = rounded(ratio) - ratio * inside(ratio)
    gradient = jnp.sum(g_hat * slope) / jnp.sqrt(
      jnp.asarray(w_tilde.size * q_max, slope.dtype)
    )
    moves, state = optimizer.update(
      gradient, variables.optimizer, variables.step
    )
    step = optax.apply_updates(variables.step, moves)
    return TrainedStep(jnp.maximum(step, variables.step / 1000), state)

  def saturated(w_tilde: Array, variables: Variables) -> Array:
    return ~inside(scaled(w_tilde, variables))

  return Quantizer(
    codes,
    init=init,
    straight_through=straight_through,
    update=update,
    saturated=saturated,
    unrounded=w_itself,
  )
