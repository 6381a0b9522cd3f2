"""The layer that quantizes the input of another layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mq_jax.activations import Activation

Array = jax.Array


class QuantizedInput(nn.Module):
  """Applies an `Activation` and holds its trained number.

  If the activation has a `start`, the collection `params` holds `number`, of
  shape `()`. A number below `start` / 1000 counts as `start` / 1000. The number
  and intermediate results are of `dtype`, or float32 if that is wider.

  Attributes:
    activation: Function that quantizes, and its properties.
    dtype: Dtype of the result.
  """

  activation: Activation
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Quantizes a batch.

    Args:
      x: Batch of any shape; its first axis is the batch.

    Returns:
      Array of the shape of `x`, in `dtype`.
    """
    function, start = self.activation.function, self.activation.start
    wide = jnp.promote_types(jnp.float32, self.dtype)
    x = x.astype(wide)
    if start is None:
      return function(x).astype(self.dtype)
    number = self.param('number', nn.initializers.constant(start), (), wide)
    # Clips and steps must be positive. The gradient passes through the minimum
    # too, so that training brings the number back.
    minimum = start / 1000 + (number - lax.stop_gradient(number))
    number = jnp.where(number > start / 1000, number, minimum)
    return function(x, number).astype(self.dtype)


def quantized_input(
  x: Array, activation: Activation | None, dtype: Any, name: str
) -> Array:
  """Returns `x`, of any shape, after `activation` in a submodule `name`."""
  if activation is None:
    return x
  return QuantizedInput(activation, dtype, name=name)(x)


def needs_relu(activation: Activation | None) -> bool:
  """Returns True if a ReLU follows the norm layers of a network."""
  return activation is None or not activation.signed
