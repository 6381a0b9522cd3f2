"""The LSTM that reads one coordinate's W̃ at each step of training.

All coordinates share the weights; each has its own memory (h, c), which is
kept in blocks of coordinates (`coordinates.to_blocks`) from step to step.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax import coordinates

Array = jax.Array
Phi = dict[str, Array]


class Memory(NamedTuple):
  """Memory of every coordinate: two arrays (blocks, block size, hidden)."""

  h: Array
  c: Array


def init(key: Array, hidden: int, dtype: Any) -> Phi:
  """φ of the LSTM, everything from U(±1/sqrt(hidden)) as in PyTorch.

  Args:
    key: PRNG key.
    hidden: Number of hidden units H.
    dtype: Of all parameters.

  Returns:
    `input_kernel` (1, 4H), `recurrent_kernel` (H, 4H), `input_bias` and
    `recurrent_bias` (4H,), the gates in the order i, f, g, o.
  """
  bound = 1 / math.sqrt(hidden)
  shapes = {
    'input_kernel': (1, 4 * hidden),
    'recurrent_kernel': (hidden, 4 * hidden),
    'input_bias': (4 * hidden,),
    'recurrent_bias': (4 * hidden,),
  }
  keys = jax.random.split(key, len(shapes))
  return {
    name: jax.random.uniform(k, shape, dtype, -bound, bound)
    for k, (name, shape) in zip(keys, shapes.items(), strict=True)
  }


def no_memory(leaves: coordinates.Leaves, hidden: int, dtype: Any) -> Memory:
  """The memory before the first step: zeros."""
  shape = (*coordinates.block_shape(leaves), hidden)
  return Memory(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def cell(phi: Phi, x: Array, memory: Memory | None) -> Memory:
  """One step of the LSTM for a block of coordinates.

  Args:
    phi: As `init` returns it.
    x: Input, shape (n,).
    memory: h and c of shape (n, H); None stands for zeros, and saves the
      product with the recurrent kernel.

  Returns:
    The new memory; its `h` is the output.
  """
  bias = phi['input_bias'] + phi['recurrent_bias']
  gates = x[:, None] * phi['input_kernel'] + bias[None, :]
  if memory is not None:
    gates = gates + memory.h @ phi['recurrent_kernel']
  i, f, g, o = jnp.split(gates, 4, axis=-1)
  c = jax.nn.sigmoid(i) * jnp.tanh(g)
  if memory is not None:
    c = c + jax.nn.sigmoid(f) * memory.c
  return Memory(jax.nn.sigmoid(o) * jnp.tanh(c), c)
