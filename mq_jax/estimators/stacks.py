"""FCs(φ, σ, x): the fully-connected stack that acts on single coordinates.

The stack maps each coordinate separately, so a stack without activation is a
straight line, and a ReLU stack without hidden biases is two half-lines that
meet at zero. Such stacks are evaluated at two or three points instead of at all
coordinates. The values and the gradients of φ are the same, and the cost is
negligible.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.checks import check_count
from mq_jax.estimators import coordinates
from mq_jax.estimators.base import Leaves

Array = jax.Array
Phi = tuple[dict[str, Array], ...]

_ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
  None: lambda x: x,
  'relu': lambda x: jnp.maximum(x, 0),
  'tanh': jnp.tanh,
}


class Stack(NamedTuple):
  """Shape of a stack of linear layers with one input and one output.

  Attributes:
    hidden: Width of the hidden layers; unused if `layers` is 1.
    layers: Number of linear layers.
    activation: Function between the layers: None, 'relu' or 'tanh'.
    bias: True if the layers before the last have a bias.
    last_bias: True if the last layer has a bias.
  """

  hidden: int
  layers: int
  activation: str | None
  bias: bool
  last_bias: bool


def checked_stack(
  hidden: int, layers: int, activation: str | None, bias: bool, last_bias: bool
) -> Stack:
  """Returns a `Stack`, or raises `ValueError` if an argument is invalid."""
  check_count('hidden', hidden)
  check_count('layers', layers)
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f'activation={activation!r} is unknown: choose None, "relu" or "tanh".'
    )
  # A single layer has no hidden units, so it needs no activation.
  return Stack(
    hidden, layers, activation if layers > 1 else None, bias, last_bias
  )


def is_identity(init: str) -> bool:
  """Returns whether `init` is 'identity'; it must be that or 'random'."""
  if init not in ('random', 'identity'):
    raise ValueError(
      f'init={init!r} is unknown: choose "random" or "identity".'
    )
  return init == 'identity'


def init(key: Array, stack: Stack, dtype: Any) -> Phi:
  """Draws φ of the stack from U(±1/sqrt(fan_in)).

  Args:
    key: PRNG key.
    stack: Shape of the stack.
    dtype: dtype of all parameters.

  Returns:
    One dict per layer: `kernel` (in, out) and, if the layer has a bias, `bias`
    (out,).
  """
  widths = (1, *(stack.hidden,) * (stack.layers - 1), 1)
  keys = jax.random.split(key, stack.layers)
  biases = [stack.bias] * (stack.layers - 1) + [stack.last_bias]
  return tuple(
    init_layer(k, shape, bias, dtype)
    for k, shape, bias in zip(
      keys, itertools.pairwise(widths), biases, strict=True
    )
  )


def init_layer(
  key: Array, shape: tuple[int, int], bias: bool, dtype: Any
) -> dict[str, Array]:
  """Draws a linear layer from U(±1/sqrt(fan_in)), as PyTorch does."""
  bound = 1 / math.sqrt(shape[0])
  kernel_key, bias_key = jax.random.split(key)
  layer = {
    'kernel': jax.random.uniform(kernel_key, shape, dtype, -bound, bound)
  }
  if bias:
    layer['bias'] = jax.random.uniform(
      bias_key, shape[1:], dtype, -bound, bound
    )
  return layer


def constant_one(layer: dict[str, Array]) -> dict[str, Array]:
  """Returns the linear layer with parameters that make every output 1."""
  return {
    'kernel': jnp.zeros_like(layer['kernel']),
    'bias': jnp.ones_like(layer['bias']),
  }


def init_identity(key: Array, stack: Stack, dtype: Any) -> Phi:
  """Returns φ of a stack without activation whose layers multiply to 1.

  Each hidden unit transmits 1/hidden of its input, with a random sign, so all
  units receive gradients of the same size. Biases start at 0.
  """
  first, *rest = init(key, stack, dtype)
  if not rest:
    kernels = [jnp.ones_like(first['kernel'])]
  else:
    sign = jnp.where(first['kernel'] < 0, -1.0, 1.0).astype(dtype)
    unit = sign / math.sqrt(stack.hidden)
    middle = [jnp.eye(stack.hidden, dtype=dtype)] * (stack.layers - 2)
    kernels = [unit, *middle, unit.T]
  return tuple(
    {name: jnp.zeros_like(leaf) for name, leaf in layer.items()}
    | {'kernel': kernel}
    for layer, kernel in zip((first, *rest), kernels, strict=True)
  )


def evaluate(phi: Phi, stack: Stack, x: Array) -> Array:
  """Returns FCs(φ, σ, x) of the plain network; x and result are (n,)."""
  activation = _ACTIVATIONS[stack.activation]
  signal = x[:, None]
  for index, layer in enumerate(phi):
    signal = activation(signal) if index else signal
    signal = signal @ layer['kernel']
    if 'bias' in layer:
      signal = signal + layer['bias'][None, :]
  return signal[:, 0]


def line(phi: Phi, stack: Stack) -> tuple[Array, Array]:
  """Returns `(slope, offset)` of a stack without activation, two scalars."""
  offset, at_one = evaluate(phi, stack, jnp.arange(2, dtype=_dtype(phi)))
  return at_one - offset, offset


def apply(phi: Phi, stack: Stack, leaves: Leaves) -> dict[str, Array]:
  """Returns FCs(φ, σ, ·) of every coordinate, evaluated the cheapest way."""
  if stack.activation is None:
    slope, offset = line(phi, stack)
    has_offset = any('bias' in layer for layer in phi)
    return {
      path: slope * x + offset if has_offset else slope * x
      for path, x in leaves.items()
    }
  if stack.activation == 'relu' and not stack.bias:
    probes = jnp.arange(-1, 2, dtype=_dtype(phi))
    at_minus_one, offset, at_one = evaluate(phi, stack, probes)
    rising, falling = at_one - offset, at_minus_one - offset
    return {
      path: offset + jnp.where(x >= 0, rising, -falling) * x
      for path, x in leaves.items()
    }
  blocks = coordinates.map_blocks(
    lambda phi, x: evaluate(phi, stack, x), phi, coordinates.to_blocks(leaves)
  )
  return coordinates.from_blocks(blocks, leaves)


def _dtype(phi: Phi) -> Any:
  return phi[0]['kernel'].dtype
