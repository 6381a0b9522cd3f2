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


def map_blocks(
  function: Callable[[Any, Any], Array], phi: Any, blocks: Any
) -> Array:
  """Maps over the leading axis and keeps nothing for the backward pass.

  Of a block whose cotangent is zero all over, nothing is computed backwards,
  except under `jax.vmap`, which takes both branches of a condition. There is a
  rule for reverse mode alone: no `jax.jvp`, no Hessian.

  Args:
    function: `(phi, block) -> array`; a block is without the leading axis.
    phi: What `function` is differentiated with respect to; the blocks are
      constants.
    blocks: Pytree of arrays with an equal leading axis.

  Returns:
    The results, stacked along a leading axis.
  """

  @jax.custom_vjp
  def mapped(phi: Any, blocks: Any) -> Array:
    return lax.map(lambda block: function(phi, block), blocks)

  def forward(phi: Any, blocks: Any) -> tuple[Array, Any]:
    return mapped(phi, blocks), (phi, blocks)

  def backward(kept: Any, cotangents: Array) -> tuple[Any, None]:
    phi, blocks = kept

    def add(total: Any, block_and_cotangent: Any) -> tuple[Any, None]:
      block, cotangent = block_and_cotangent

      def added(total: Any) -> Any:
        pullback = jax.vjp(lambda phi: function(phi, block), phi)[1]
        return jax.tree.map(jnp.add, total, pullback(cotangent)[0])

      return lax.cond(jnp.any(cotangent != 0), added, lambda t: t, total), None

    zeros = jax.tree.map(jnp.zeros_like, phi)
    return lax.scan(add, zeros, (blocks, cotangents))[0], None

  mapped.defvjp(forward, backward)
  return mapped(phi, lax.stop_gradient(blocks))
