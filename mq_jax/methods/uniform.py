"""Position-based scaled gradients (PSGD), and the uniform grid they aim at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mq_jax import selection
from mq_jax.checks import check_bits
from mq_jax.quantizers import Quantizer, Variables, projected

Array = jax.Array


def uniform(bits: int) -> Quantizer:
  """A symmetric grid of 2ᵇ − 1 levels, from −max|W| to max|W| of the layer.

  Ŵ = Δ · round(W/Δ) with Δ = max|W| / (2ᵇ⁻¹ − 1); halves round upwards. After
  training it is the layer-wise post-training quantization of PSGD's authors,
  without data and without fine-tuning.

  Args:
    bits: 2 to 8.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `bits` is not an integer from 2 to 8.
  """
  check_bits(bits, 2, 8)
  most = 2 ** (bits - 1) - 1

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    del variables
    largest = jnp.max(jnp.abs(w_tilde))
    step = jnp.where(largest > 0, largest, 1) / most
    code = jnp.clip(jnp.floor(w_tilde / step + 0.5), -most, most) + most
    grid = jnp.arange(-most, most + 1, dtype=w_tilde.dtype)
    return code.astype(jnp.uint8), grid * step

  return Quantizer(codes)


def scale_by_position(
  rules: selection.Rules,
  *,
  strength: float = 1.0,
  epsilon: float = 1e-3,
  normalised: bool = True,
  target: Callable[[Array], Array] | None = None,
) -> optax.GradientTransformation:
  """Scales the gradient of a weight by its distance to its target.

  g ← strength · s · g, where s = |W − W̄| + ε, or that over its largest value
  in the layer (`normalised`), so that weights near their targets stay. It
  stands first in `refine`, before momentum; in front of Adam, which divides
  scales of a coordinate out again, it does little.

  Args:
    rules: As in `make_train_step`; leaves without a quantizer keep their
      gradients. The quantizers have no variables.
    strength: λ_s. The authors' 150 goes with `normalised=False, epsilon=0`;
      with `normalised` about 1 does.
    epsilon: What is left of the gradient on a target. The published value was
      not found.
    normalised: The form of their author response.
    target: `(w) -> w̄`, of the shape of `w`. Default: the levels of the
      quantizers. Zeros, to prune afterwards.

  Returns:
    The transformation of gradients; it needs the parameters.

  Raises:
    ValueError: If `strength` is not positive or `epsilon` negative.

  References:
    Kim, Yoo, Kwak, `Position-based Scaled Gradient for Model Quantization and
    Pruning <https://arxiv.org/abs/2005.11035>`_, 2020, eqs. (5) to (7)
  """
  if not strength > 0 or not epsilon >= 0:
    raise ValueError(
      f'strength={strength!r} must be positive and epsilon={epsilon!r} at least'
      ' 0.'
    )

  def scaled(quantizer: Quantizer, w: Array, g: Array) -> Array:
    nearest = projected(quantizer, w) if target is None else target(w)
    s = jnp.abs(w - nearest) + epsilon
    if normalised:
      largest = jnp.max(s)
      s = s / jnp.where(largest > 0, largest, 1)
    return strength * s * g

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return selection.transform(scaled, rules, params, grads), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
