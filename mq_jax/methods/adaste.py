"""AdaSTE with a growing β: a smooth forward pass that becomes the sign."""

import jax
import jax.numpy as jnp
import optax

from mq_jax.checks import check_at_least, check_positive, check_schedule
from mq_jax.methods.proximal import binary
from mq_jax.methods.soft_sign import scaled_start
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer

Array = jax.Array


@prints_call
def annealed_adaste(
  beta: optax.Schedule,
  *,
  alpha: float = 0.01,
  start: float | None = None,
  largest: float = 0.5,
  least_gradient: float = 1e-3,
  margin: float = 1e-6,
) -> Quantizer:
  """Trains with a smooth value s(W), and quantizes to sign(W); sign(0) = +1.

  The loss receives s(θ) = clip((θ + β(1 + α) sign(θ)) / (1 + β), −1, 1) of each
  weight θ, which is sign(θ) as soon as αβ ≥ 1. Its gradient g passes with this
  slope:

  - 1/(1 + β) where g or θ is near 0, and where g moves θ away from the
    threshold and |s(θ)| < 1: the slope of s;
  - 0 where g moves θ away from the threshold and |s(θ)| = 1;
  - (s(|θ|) + s(0⁺))/|θ|, at most `largest`, where g moves θ towards the
    threshold: the slope of the line from s(θ) to the value behind it.

  As soon as αβ ≥ 1, the first slope is 1 and the last 1/|θ|, at most `largest`,
  as in the authors' code and in `mq_jax.estimators.adaste`. A norm layer must
  follow.

  Args:
    beta: β as an increasing function of the number of updates so far. The
      authors let it grow from 0.01 to 200.
    alpha: α, positive.
    start: Weights start at `start` · W / mean|W| of the layer. None starts at
      W; the authors draw ±10.
    largest: Largest slope of a weight that moves towards its threshold.
    least_gradient: Size of g up to which the first slope applies.
    margin: |θ| up to which the first slope applies.

  Returns:
    A `Quantizer` whose variables are the number of updates so far.

  Raises:
    TypeError: If `beta` is not a function.
    ValueError: If `alpha` or `start` is not positive, or another number is
      negative.

  References:
    Le, Høier, Lin, Zach, `AdaSTE: An Adaptive Straight-Through Estimator to
    Train Binary Neural Networks <https://arxiv.org/abs/2112.02880>`_, 2022, in
    the last version of the authors' code (`FenBPOpt`). For positive θ with
    s(θ) < 1, that code subtracts θ in the numerator of the last slope instead
    of adding it. For negative θ that code adds |θ|, as here. As soon as αβ ≥ 1,
    its margin is 1e-3.
  """
  check_schedule(beta=beta)
  check_positive(alpha=alpha)
  check_at_least(
    0, largest=largest, least_gradient=least_gradient, margin=margin
  )

  def size_of_value(size: Array, b: Array) -> Array:
    return jnp.minimum((size + b * (1 + alpha)) / (1 + b), 1)

  def relaxed(w_tilde: Array, variables: Array) -> Array:
    theta = widened(w_tilde)
    value = size_of_value(jnp.abs(theta), beta(variables))
    return jnp.where(theta >= 0, value, -value).astype(w_tilde.dtype)

  def slope(theta: Array, g: Array, b: Array) -> Array:
    is_sign = alpha * b >= 1
    free = jnp.where(is_sign, 1, 1 / (1 + b))
    size = jnp.abs(theta)
    decided = (size > margin) & (jnp.abs(g) > least_gradient)
    towards = jnp.sign(theta) == jnp.sign(g)
    value = size_of_value(size, b)
    behind = size_of_value(jnp.zeros_like(size), b)
    reach = jnp.where(is_sign, 1, value + behind)
    line = jnp.minimum(reach / jnp.where(size > 0, size, 1), largest)
    away = jnp.where(value < 1, free, 0)
    return jnp.where(decided, jnp.where(towards, line, away), free)

  def straight_through(g_hat: Array, w_tilde: Array, variables: Array) -> Array:
    factor = slope(widened(w_tilde), widened(g_hat), beta(variables))
    return (g_hat * factor).astype(g_hat.dtype)

  return Quantizer(
    binary().codes,
    init=lambda w: jnp.zeros((), jnp.int32),
    straight_through=straight_through,
    update=lambda variables, w_tilde, w_hat, g_hat: variables + 1,
    relaxed=relaxed,
    parametrized=scaled_start(start),
  )
