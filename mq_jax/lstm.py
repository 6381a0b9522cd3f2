"""The LSTM that reads one coordinate's W̃ at each step of training.

All coordinates share the weights; each has its own memory (h, c), which is
kept in blocks of coordinates (`coordinates.to_blocks`) from step to step.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax import coordinates
from mq_jax.materialize import materialize

Array = jax.Array
Phi = dict[str, Array]


class Memory(NamedTuple):
  """Memory of every coordinate: two arrays (…, block size, hidden)."""

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


class History(NamedTuple):
  """What is kept from step to step: the memory, one step short of the last.

  The backward pass reads the memory that the last step started from. To keep
  the one that it ended with beside it would double the memory's size; computing
  it when it is next asked for takes one more evaluation.

  Attributes:
    memory: That the last step started from, (blocks, block size, hidden) each;
      of a narrow type it is the bits (`narrow`).
    phi: Of the last step.
    inputs: Of the last step, (blocks, block size).
  """

  memory: Memory
  phi: Phi
  inputs: Array


def no_history(
  leaves: coordinates.Leaves, hidden: int, dtype: Any, memory_dtype: Any
) -> History:
  """Before the first step; zero weights turn an empty memory into itself."""
  shape = coordinates.block_shape(leaves)
  phi = jax.eval_shape(lambda: init(jax.random.key(0), hidden, dtype))
  return History(
    Memory(
      *(narrow(jnp.zeros((*shape, hidden), dtype), memory_dtype) for _ in 'hc')
    ),
    jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), phi),
    jnp.zeros(shape, dtype),
  )


def recall(history: History, memory_dtype: Any) -> Memory:
  """The memory that the last step ended with; a constant to all gradients."""
  memory, phi, inputs = lax.stop_gradient(history)

  def replace_block(index: Array, memory: Memory) -> Memory:
    x = inputs[index]
    block = jax.tree.map(
      lambda part: widen(part[index], x.dtype, memory_dtype), memory
    )
    # A weight that is NaN has spoilt the run long before.
    after = materialize(cell, phi, x, block, never=jnp.isnan(x[0]))
    return jax.tree.map(
      lambda part, new: lax.dynamic_update_index_in_dim(
        part, narrow(new, memory_dtype), index, axis=0
      ),
      memory,
      after,
    )

  # A loop that writes to what it read, so that XLA needs no second copy.
  return lax.fori_loop(0, len(inputs), replace_block, memory)


def narrow(x: Array, memory_dtype: Any) -> Array:
  """What is kept of `x`: the bits of a narrower type, or `x` itself.

  Integers, because XLA's CPU compiler widens whole arrays of bfloat16 before it
  takes a block out of them.
  """
  if memory_dtype is None:
    return x
  bits = jnp.dtype(f'uint{8 * jnp.dtype(memory_dtype).itemsize}')
  return lax.bitcast_convert_type(x.astype(memory_dtype), bits)


def widen(kept: Array, dtype: Any, memory_dtype: Any) -> Array:
  """The inverse of `narrow`, up to rounding, in `dtype`."""
  if memory_dtype is None:
    return kept
  return lax.bitcast_convert_type(kept, memory_dtype).astype(dtype)


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
