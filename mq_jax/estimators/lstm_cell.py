"""The LSTM that reads W̃ of one coordinate in each training step.

All coordinates share the weights. Each coordinate has its own memory (h, c),
which is kept in blocks of coordinates (`coordinates.to_blocks`) between steps.
`lstm_grid` has memories of points instead.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.estimators import coordinates
from mq_jax.estimators.base import Leaves
from mq_jax.materialize import materialize

Array = jax.Array
Phi = dict[str, Array]


class Memory(NamedTuple):
  """Memory of every coordinate or point: two arrays of (…, hidden)."""

  h: Array
  c: Array


def init(key: Array, hidden: int, dtype: Any) -> Phi:
  """Draws φ of an LSTM with H hidden units from U(±1/√H), as PyTorch does.

  Args:
    key: PRNG key.
    hidden: H, the number of hidden units.
    dtype: dtype of φ.

  Returns:
    `input_kernel` (1, 4H), `recurrent_kernel` (H, 4H), `input_bias` and
    `recurrent_bias` (4H,), the gates in the order i, f, g, o.
  """
  bound = 1 / math.sqrt(hidden)
  gates = 4 * hidden
  shapes = {
    'input_kernel': (1, gates),
    'recurrent_kernel': (hidden, gates),
    'input_bias': (gates,),
    'recurrent_bias': (gates,),
  }
  keys = jax.random.split(key, len(shapes))
  return {
    name: jax.random.uniform(k, shape, dtype, -bound, bound)
    for k, (name, shape) in zip(keys, shapes.items(), strict=True)
  }


def empty(shape: tuple[int, ...], hidden: int, dtype: Any) -> Memory:
  """Returns the memory before the first step: zeros of (*shape, hidden)."""
  return Memory(*(jnp.zeros((*shape, hidden), dtype) for _ in Memory._fields))


class History(NamedTuple):
  """The memory before the last step, and the φ and inputs of the last step.

  The backward pass reads the memory at the start of the last step. Storing the
  memory at the end of that step as well would double the size. Recomputing it
  in the next step costs one more evaluation.

  Attributes:
    memory: Memory at the start of the last step, two arrays of (blocks, block
      size, hidden). They contain bits if the dtype is narrower (`narrow`).
    phi: φ of the last step.
    inputs: Inputs of the last step, (blocks, block size).
  """

  memory: Memory
  phi: Phi
  inputs: Array


def no_history(
  leaves: Leaves, hidden: int, dtype: Any, memory_dtype: Any
) -> History:
  """Returns the history before the first step.

  Its φ is zero, which turns an empty memory into itself.
  """
  shape = coordinates.block_shape(leaves)
  phi = jax.eval_shape(lambda: init(jax.random.key(0), hidden, dtype))
  return History(
    jax.tree.map(
      lambda part: narrow(part, memory_dtype), empty(shape, hidden, dtype)
    ),
    jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), phi),
    jnp.zeros(shape, dtype),
  )


def recall(history: History, memory_dtype: Any) -> Memory:
  """Returns the memory at the end of the last step, a constant to gradients."""
  memory, phi, inputs = lax.stop_gradient(history)

  def replace_block(index: Array, memory: Memory) -> Memory:
    x = inputs[index]
    block = jax.tree.map(
      lambda part: widen(part[index], x.dtype, memory_dtype), memory
    )
    # If the weights contain NaN, the run is useless anyway.
    after = materialize(cell, phi, x, block, never=jnp.isnan(x[0]))
    return jax.tree.map(
      lambda part, new: lax.dynamic_update_index_in_dim(
        part, narrow(new, memory_dtype), index, axis=0
      ),
      memory,
      after,
    )

  # The loop writes to the array that it reads, so that XLA needs no copy.
  return lax.fori_loop(0, len(inputs), replace_block, memory)


def narrow(x: Array, memory_dtype: Any) -> Array:
  """Returns the bits of `x` in `memory_dtype`, or `x` if that is None.

  The bits are integers because XLA's CPU compiler widens an entire array of
  bfloat16 before it takes a block out of the array.
  """
  if memory_dtype is None:
    return x
  bits = jnp.dtype(f'uint{8 * jnp.dtype(memory_dtype).itemsize}')
  return lax.bitcast_convert_type(x.astype(memory_dtype), bits)


def widen(narrowed: Array, dtype: Any, memory_dtype: Any) -> Array:
  """Inverts `narrow` up to rounding, in `dtype`."""
  if memory_dtype is None:
    return narrowed
  return lax.bitcast_convert_type(narrowed, memory_dtype).astype(dtype)


def cell(phi: Phi, x: Array, memory: Memory | None) -> Memory:
  """Takes one step of the LSTM for a block of coordinates.

  Args:
    phi: φ as returned by `init`.
    x: Input, shape (n,).
    memory: h and c of shape (n, H). None means zeros and saves the product with
      the recurrent kernel.

  Returns:
    The new memory. Its `h` is the output.
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
