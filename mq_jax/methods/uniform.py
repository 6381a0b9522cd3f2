"""Position-based scaled gradients (PSGD), and the uniform grid of targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mq_jax import selection
from mq_jax.checks import (
  check_at_least,
  check_bits,
  check_positive,
  check_switch,
)
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables, projected, w_itself

Array = jax.Array


@prints_call
def uniform(bits: int) -> Quantizer:
  """Quantizes to 2ᵇ − 1 even levels from −max|W| to max|W| of the layer.

  Ŵ = Δ · round(W/Δ) with Δ = max|W| / (2ᵇ⁻¹ − 1); halves round upwards. After
  training this is the layer-wise post-training quantization of the authors of
  PSGD, which needs no data and no fine-tuning.

  Args:
    bits: b, 2 to 8.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 2 to 8.
  """
  bits = check_bits(bits, 2, 8)
  q_max = 2 ** (bits - 1) - 1

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    w = widened(w_tilde)
    largest = jnp.max(jnp.abs(w))
    step = jnp.where(largest > 0, largest, 1) / q_max
    code = jnp.clip(jnp.floor(w / step + 0.5), -q_max, q_max) + q_max
    grid = jnp.arange(-q_max, q_max + 1, dtype=w.dtype)
    return code.astype(jnp.uint8), (grid * step).astype(w_tilde.dtype)

  return Quantizer(codes, unrounded=w_itself)


def scale_by_position(
  rules: selection.Rules,
  *,
  strength: float = 1.0,
  epsilon: float = 1e-3,
  normalised: bool = True,
  target: Callable[[Array], Array] | None = None,
) -> optax.GradientTransformation:
  """Scales the gradient of each weight by its distance from its target.

  g ← strength · s · g with s = |W − W̄| + ε, so that weights near their targets
  stay. `normalised` divides s by its largest value in the layer. Use it as the
  first part of `refine`, before momentum. Before Adam it has little effect,
  because Adam divides by the scale of each coordinate.

  Args:
    rules: Rules as in `make_train_step`, whose quantizers have no variables.
      Leaves without a quantizer keep their gradients.
    strength: λ_s. The authors' 150 belongs to `normalised=False, epsilon=0`;
      use about 1 with `normalised`.
    epsilon: ε, factor of the gradient of a weight that equals its target. We
      found no published ε.
    normalised: If True, use the form in the author response.
    target: Function `(w) -> w̄`, of the shape of `w`. The default is the level
      of the quantizer; use zeros to prune after training.

  Returns:
    A transformation of gradients, which needs the parameters.

  Raises:
    ValueError: If `strength` is not positive or `epsilon` is negative.
    TypeError: If `normalised` is not a bool.

  References:
    Kim, Yoo, Kwak, `Position-based Scaled Gradient for Model Quantization and
    Pruning <https://arxiv.org/abs/2005.11035>`_, 2020, eqs. (5) to (7)
  """
  rules = selection.fixed_rules(rules)
  check_at_least(0, epsilon=epsilon)
  check_positive(strength=strength)
  check_switch(normalised=normalised)

  def scaled(quantizer: Quantizer, w: Array, g: Array) -> Array:
    nearest = projected(quantizer, w) if target is None else target(w)
    s = jnp.abs(w - nearest) + epsilon
    if normalised:
      largest = jnp.max(s)
      s = s / jnp.where(largest > 0, largest, 1)
    return strength * s * g

  return optax.stateless(
    lambda grads, params: selection.transform(scaled, rules, params, grads)
  )
