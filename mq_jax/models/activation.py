"""The layer that quantizes the inputs of another one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mq_jax.activations import Activation

Array = jax.Array


class QuantizedInput(nn.Module):
  """Applies an `Activation`, and owns its trained number.

  Where the activation has a `start`, the collection `params` has `number`, of
  shape `()` and of `dtype`, or float32 where that is wider; below a thousandth
  of `start` it counts as that. What is computed on
  the way is never narrower than float32 either.

  Attributes:
    activation: The function, and what is to know of it.
    dtype: Of the result.
  """

  activation: Activation
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Quantizes a batch.

    Args:
      x: Of any shape; the first axis is the batch.

    Returns:
      Of the shape of `x`, in `dtype`.
    """
    function, start = self.activation.function, self.activation.start
    wide = jnp.promote_types(jnp.float32, self.dtype)
    x = x.astype(wide)
    if start is None:
      return function(x).astype(self.dtype)
    number = self.param('number', nn.initializers.constant(start), (), wide)
    # Clips and steps are positive; where one would not be, the gradient passes
    # all the same, and brings it back.
    least = start / 1000 + (number - lax.stop_gradient(number))
    number = jnp.where(number > start / 1000, number, least)
    return function(x, number).astype(self.dtype)


def quantized_input(
  x: Array, activation: Activation | None, dtype: Any, name: str
) -> Array:
  """What a layer of a network gets to see of `x`.

  Args:
    x: The batch.
    activation: None: `x` itself.
    dtype: Of the result of an activation.
    name: Of the submodule, if there is an activation.

  Returns:
    Of the shape of `x`.
  """
  if activation is None:
    return x
  return QuantizedInput(activation, dtype, name=name)(x)


def rectifies(activation: Activation | None) -> bool:
  """Whether a ReLU follows the norm layers of a network."""
  return activation is None or not activation.signed
