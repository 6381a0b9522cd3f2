"""FCs(φ, σ, x): the fully-connected stack that acts on single coordinates.

The stack maps each coordinate separately, so a stack without activation is a
straight line, and a ReLU stack without hidden biases is two half-lines that
meet at zero. Such stacks are evaluated at two or three points instead of at all
coordinates. Values and gradients of φ are the same; the cost is negligible.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.checks import check_choice, check_count
from mq_jax.estimators import coordinates
from mq_jax.estimators.base import Leaves

Array = jax.Array
Phi = tuple[dict[str, Array], ...]

INITS = ('random', 'identity')
ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
  None: lambda x: x,
  'relu': lambda x: jnp.maximum(x, 0),
  'tanh': jnp.tanh,
}


def checked_activation(
  hidden: int, layers: int, activation: str | None
) -> str | None:
  """Returns the activation, or raises `ValueError` for an invalid argument."""
  check_count('hidden', hidden)
  check_count('layers', layers)
  check_choice('activation', activation, tuple(ACTIVATIONS))
  # A single layer has no hidden units, so it needs no activation.
  return activation if layers > 1 else None


def is_identity(init: str) -> bool:
  """Returns whether `init` is 'identity'.

  Raises:
    ValueError: If `init` is neither 'random' nor 'identity'.
  """
  check_choice('init', init, INITS)
  return init == 'identity'


def init(
  key: Array, hidden: int, layers: int, bias: bool, last_bias: bool, dtype: Any
) -> Phi:
  """Draws φ of a stack from U(±1/sqrt(fan_in)).

  Args:
    key: PRNG key.
    hidden: Width of the hidden layers; unused if `layers` is 1.
    layers: Number of linear layers.
    bias: True if the layers before the last have a bias.
    last_bias: True if the last layer has a bias.
    dtype: dtype of φ.

  Returns:
    One dict per layer: `kernel` (in, out) and, with a bias, `bias` (out,).
  """
  widths = (1, *(hidden,) * (layers - 1), 1)
  keys = jax.random.split(key, layers)
  biases = [bias] * (layers - 1) + [last_bias]
  return tuple(
    init_layer(k, shape, has_bias, dtype)
    for k, shape, has_bias in zip(
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


def identity(phi: Phi) -> Phi:
  """Returns φ of a stack without activation whose layers multiply to 1.

  Each hidden unit transmits 1/hidden of its input, with the sign of its weight
  in `phi`, so all units receive gradients of the same size. Biases become 0.
  """
  first = phi[0]['kernel']
  if len(phi) == 1:
    kernels = [jnp.ones_like(first)]
  else:
    hidden = first.shape[1]
    sign = jnp.where(first < 0, -1.0, 1.0).astype(first.dtype)
    unit = sign / math.sqrt(hidden)
    middle = [jnp.eye(hidden, dtype=first.dtype)] * (len(phi) - 2)
    kernels = [unit, *middle, unit.T]
  return tuple(
    {name: jnp.zeros_like(leaf) for name, leaf in layer.items()}
    | {'kernel': kernel}
    for layer, kernel in zip(phi, kernels, strict=True)
  )


def linear(layer: dict[str, Array], x: Array) -> Array:
  """Applies a linear layer to `x`, (n, in)."""
  y = x @ layer['kernel']
  return y + layer['bias'][None, :] if 'bias' in layer else y


def evaluate(phi: Phi, activation: str | None, x: Array) -> Array:
  """Returns FCs(φ, σ, x) of the plain network; x and result are (n,)."""
  signal = linear(phi[0], x[:, None])
  for layer in phi[1:]:
    signal = linear(layer, ACTIVATIONS[activation](signal))
  return signal[:, 0]


def line(phi: Phi) -> dict[str, Array]:
  """Returns the slope `s` of a linear stack, and its `offset` with biases."""
  probes = jnp.arange(2, dtype=phi[0]['kernel'].dtype)
  offset, at_one = evaluate(phi, None, probes)
  slope = at_one - offset
  has_offset = any('bias' in layer for layer in phi)
  return {'s': slope, 'offset': offset} if has_offset else {'s': slope}


def apply(phi: Phi, activation: str | None, leaves: Leaves) -> dict[str, Array]:
  """Returns FCs(φ, σ, ·) of every coordinate, evaluated the cheapest way."""
  if activation is None:
    scalars = line(phi)
    return {
      path: scalars['s'] * x + scalars['offset']
      if 'offset' in scalars
      else scalars['s'] * x
      for path, x in leaves.items()
    }
  if activation == 'relu' and not any('bias' in layer for layer in phi[:-1]):
    probes = jnp.arange(-1, 2, dtype=phi[0]['kernel'].dtype)
    at_minus_one, offset, at_one = evaluate(phi, activation, probes)
    rising, falling = at_one - offset, at_minus_one - offset
    return {
      path: offset + jnp.where(x >= 0, rising, -falling) * x
      for path, x in leaves.items()
    }
  blocks = coordinates.map_blocks(
    lambda phi, x: evaluate(phi, activation, x),
    phi,
    coordinates.to_blocks(leaves),
  )
  return coordinates.from_blocks(blocks, leaves)
