"""SLB (searching for low-bit weights): each weight is a softmax over levels."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax.checks import (
  check_at_least,
  check_bits,
  check_choice,
  check_positive,
  check_switch,
)
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, even_levels

Array = jax.Array
# Each maps the start, the end and the elapsed share to the temperature.
SHAPES: dict[str, Callable[[float, float, Array], Array]] = {
  'exp': lambda start, end, u: start * (end / start) ** u,
  'linear': lambda start, end, u: start + (end - start) * u,
  'cos': lambda start, end, u: (
    start + (end - start) * (1 - jnp.cos(jnp.pi * u)) / 2
  ),
}


@prints_call
def slb(
  bits: int, inverse_temperature: optax.Schedule, *, sharpness: float = 1.0
) -> Quantizer:
  """Represents each weight by a mixture of levels that sharpens to one level.

  θ has one more axis than w, with m = 2ᵇ entries. With P = softmax(T · θ) the
  loss receives W_c = Σ P_k v_k, whose exact derivative is ∂W_c/∂θ_k =
  T P_k (v_k − W_c): there is no straight-through rule. A weight is quantized to
  the level of its largest θ_k. Levels are evenly spaced from −1 to 1, so a norm
  layer must follow.

  Args:
    bits: b, 1 to 4; θ has 2ᵇ numbers per weight.
    inverse_temperature: T as an increasing function of the number of updates so
      far (`temperature_schedule`). With infinite T the loss receives the levels
      and there is no gradient.
    sharpness: c of the initial θ_k = −c (w/max|w| − v_k)². The paper does not
      publish how to start from pretrained weights. With this start, W_c is
      closer to the pretrained weights for larger c · T.

  Returns:
    A `Quantizer` whose variables are the number of updates so far.

  Raises:
    ValueError: If `bits` or `sharpness` is out of range.

  References:
    Yang, Wang, Han, Xu, Xu, Tao, Xu, `Searching for Low-Bit Weights in
    Quantized Neural Networks <https://arxiv.org/abs/2009.08695>`_, 2020, eqs.
    (4) to (8). Transcriptions differ on T and 1/T. The authors' schedule, 0.01
    to 10 and "sharpening", fits the inverse temperature only.
  """
  bits = check_bits(bits, 1, 4)
  check_positive(sharpness=sharpness)

  def levels(dtype: jnp.dtype) -> Array:
    return even_levels(2**bits - 1, dtype)

  def last_axis_levels(w: Array) -> Array:
    return levels(w.dtype).reshape((1,) * w.ndim + (2**bits,))

  def parametrized(w: Array) -> Array:
    largest = jnp.max(jnp.abs(w))
    relative = w / jnp.where(largest > 0, largest, 1)
    return -sharpness * (relative[..., None] - last_axis_levels(w)) ** 2

  def shares(theta: Array, updates: Array) -> tuple[Array, Array]:
    inverse = jnp.asarray(inverse_temperature(updates), theta.dtype)
    hard = jax.nn.one_hot(
      jnp.argmax(theta, axis=-1), 2**bits, dtype=theta.dtype
    )
    is_hard = jnp.isinf(inverse)
    finite = jnp.where(is_hard, 0, inverse)
    soft = jax.nn.softmax(finite * theta, axis=-1)
    return jnp.where(is_hard, hard, soft), finite

  def mean_level(share: Array) -> Array:
    # The default precision of some devices would round the levels.
    return jnp.dot(share, levels(share.dtype), precision=lax.Precision.HIGHEST)

  def relaxed(w_tilde: Array, variables: Array) -> Array:
    return mean_level(shares(w_tilde, variables)[0])

  def codes(w_tilde: Array, variables: Array) -> tuple[Array, Array]:
    code = jnp.argmax(w_tilde, axis=-1).astype(jnp.uint8)
    return code, levels(w_tilde.dtype)

  def straight_through(g_hat: Array, w_tilde: Array, variables: Array) -> Array:
    share, slope = shares(w_tilde, variables)
    mean = mean_level(share)[..., None]
    return slope * share * (last_axis_levels(g_hat) - mean) * g_hat[..., None]

  return Quantizer(
    codes,
    init=lambda w: jnp.zeros((), jnp.int32),
    straight_through=straight_through,
    update=lambda variables, w_tilde, w_hat, g_hat: variables + 1,
    relaxed=relaxed,
    parametrized=parametrized,
    saturated=lambda w_tilde, variables: (
      jnp.max(shares(w_tilde, variables)[0], axis=-1) > 0.99
    ),
  )


def temperature_schedule(
  kind: str,
  *,
  start: float,
  end: float,
  total: int,
  window: tuple[float, float] = (0.0, 1.0),
  cycles: int = 1,
  every: int = 1,
  freeze: bool = False,
) -> optax.Schedule:
  """Returns a schedule of SLB for the inverse temperature T.

  u is the elapsed share of `window`. 'exp' is start · (end/start)ᵘ, 'linear' is
  start + (end − start) u, and 'cos' is start + (end − start)(1 − cos πu)/2. The
  multiplicative schedule of the authors' repository, one factor per epoch, is
  'exp' with `every` set to the number of updates per epoch.

  Args:
    kind: 'exp', 'linear' or 'cos'.
    start: T before the window, positive.
    end: T after the window, at least `start`.
    total: Total number of updates.
    window: Start and end of the increase of T, as shares of `total`.
    cycles: Number of cycles of equal length, each from `start` to `end`
      (SGD-R). The published lengths are not known.
    every: Number of updates between changes of T.
    freeze: True if T is infinite after the window, so that only the other
      parameters train, as in a public reimplementation.

  Returns:
    `(updates) -> T`.

  Raises:
    ValueError: If an argument is out of range.
    TypeError: If `freeze` is not a bool.
  """
  check_choice('kind', kind, tuple(SHAPES))
  check_switch(freeze=freeze)
  first, last = window
  if not 0 < start <= end < math.inf or not 0 <= first < last <= 1:
    raise ValueError(
      f'start={start!r} and end={end!r} must be positive, finite and ascending,'
      f' and window={window!r} must ascend within [0, 1].'
    )
  check_at_least(1, total=total, cycles=cycles, every=every)

  def schedule(updates: Array) -> Array:
    share = updates // every * every / total
    elapsed = jnp.clip((share - first) / (last - first), 0, 1)
    rising = SHAPES[kind](start, end, (elapsed * cycles) % 1)
    return jnp.where(elapsed < 1, rising, jnp.inf if freeze else end)

  return schedule
