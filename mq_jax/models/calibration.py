"""First numbers of quantized activations, from the images of a network.

LSQ and PACT train a step or a clip per layer. A constant start is far from the
range of most layers, and after training nothing else sets the number. Here each
number becomes the one of smallest squared error on the inputs of its layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mq_jax.models.activation import QuantizedInput
from mq_jax.selection import named_leaves, replace

Array = jax.Array
# Candidates are `start` times powers of 2, 2^(1/8) apart.
_OCTAVES, _PER_OCTAVE = 8, 8
_MOST_VALUES = 2**18  # Inputs per layer; a sample of the positions of more.


def measure_numbers(
  net: nn.Module, params: Any, batch_stats: Any, images: Array
) -> Any:
  """Returns parameters whose activations fit the inputs of their layers.

    number = argmin_c Σ (function(x, c) − x)²,   c = start · 2^(i/8), |i| ≤ 64

  The sum is over the inputs x of a layer in evaluation, or over all channels of
  a random sample of their positions, if no activation with a number is
  quantized. A number keeps its `start` if all candidates are equally good.

  Args:
    net: Network with `QuantizedInput` layers.
    params: Parameters with a `number` per quantized activation.
    batch_stats: Statistics of the norms.
    images: Normalised images, `(batch, height, width, channels)`.

  Returns:
    Parameters with other numbers. If no activation has a number, they are
    `params`.

  References:
    Nahshan et al., `Loss Aware Post-training Quantization
    <https://arxiv.org/abs/1911.07190>`_, 2019: this is its layer-wise start
    with p = 2, without the joint search.
  """
  leaves = named_leaves(params)
  numbers = jax.jit(_best_numbers, static_argnums=0)(
    net, params, batch_stats, images
  )
  return replace(params, leaves | numbers) if numbers else params


def _best_numbers(
  net: nn.Module, params: Any, batch_stats: Any, images: Array
) -> dict[str, Array]:
  """Returns the number of each quantized activation, by its path."""
  found: dict[str, Array] = {}
  steps = _OCTAVES * _PER_OCTAVE

  def measure(
    call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
  ) -> Any:
    layer = context.module
    if (
      not isinstance(layer, QuantizedInput) or context.method_name != '__call__'
    ):
      return call(*args, **kwargs)
    start, function = layer.activation.start, layer.activation.function
    if start is None:
      return call(*args, **kwargs)
    x = args[0].reshape(-1, args[0].shape[-1])
    most = max(1, _MOST_VALUES // x.shape[1])
    if len(x) > most:
      # Even steps could visit a single channel or a single column.
      x = x[np.random.default_rng(0).integers(len(x), size=most)]
    x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    candidates = start * 2.0 ** (jnp.arange(-steps, steps + 1) / _PER_OCTAVE)

    def error(number: Array) -> Array:
      return jnp.mean((function(x, number.astype(x.dtype)) - x) ** 2)

    errors = jax.lax.map(error, candidates)
    # All numbers fit a layer whose inputs are zero.
    is_same = jnp.max(errors) == jnp.min(errors)
    number = jnp.where(is_same, start, candidates[jnp.argmin(errors)])
    found['/'.join((*layer.path, 'number'))] = number.astype(x.dtype)
    return args[0]

  with nn.intercept_methods(measure):
    net.apply(
      {'params': params, 'batch_stats': batch_stats}, images, train=False
    )
  return found
