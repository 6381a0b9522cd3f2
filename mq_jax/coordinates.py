"""All leaves as one vector of coordinates, worked on in blocks.

A coordinate-wise network with a hidden layer would need an array of shape
(coordinates, hidden) if it saw all coordinates at once: 108 MB for a ResNet20
and 100 hidden units, several times over. In blocks under `lax.map`, with each
block recomputed in the backward pass, memory stays that of one block, whatever
the network's size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Leaves = Mapping[str, Array]

# Large enough that the matrix products of a block run at full speed, small
# enough that its activations stay within the cache.
BLOCK = 4096


def count(leaves: Leaves) -> int:
  """The number of coordinates in all leaves."""
  return sum(jnp.size(leaf) for leaf in leaves.values())


def block_shape(leaves: Leaves) -> tuple[int, int]:
  """`(blocks, block size)` that hold all coordinates of `leaves`."""
  total = count(leaves)
  size = min(BLOCK, total)
  return -(-total // size), size


def to_blocks(leaves: Leaves) -> Array:
  """All coordinates, concatenated in order and padded by zeros.

  Args:
    leaves: Path to array of any shape, one dtype; at least one coordinate.

  Returns:
    Array of shape `block_shape(leaves)`.
  """
  shape = block_shape(leaves)
  vector = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves.values()])
  padding = shape[0] * shape[1] - vector.size
  return jnp.pad(vector, (0, padding)).reshape(shape)


def from_blocks(blocks: Array, like: Leaves) -> dict[str, Array]:
  """The inverse of `to_blocks`: leaves with the paths and shapes of `like`."""
  vector, leaves, start = blocks.reshape(-1), {}, 0
  for path, leaf in like.items():
    size = jnp.size(leaf)
    leaves[path] = vector[start : start + size].reshape(jnp.shape(leaf))
    start += size
  return leaves


def map_blocks(function: Callable[[Any], Any], blocks: Any) -> Any:
  """Maps over the leading axis and keeps nothing for the backward pass.

  Args:
    function: From one block (a pytree without the leading axis) to a pytree.
    blocks: Pytree of arrays with an equal leading axis.

  Returns:
    The results, stacked along a leading axis.
  """
  return lax.map(jax.checkpoint(function), blocks)
