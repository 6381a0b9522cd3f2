"""All leaves as one vector of coordinates, processed in blocks.

To process all coordinates at once, a coordinate-wise network with a hidden
layer would need several arrays of shape (coordinates, hidden), each of 108 MB
for a ResNet20 and 100 hidden units. `lax.map` processes blocks instead, and the
backward pass recomputes each block. Both need the memory of one block only,
independent of the size of the network.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.estimators.base import Leaves

Array = jax.Array

# Large enough that the matrix products of a block run at full speed, small
# enough that the activations of a block stay in the cache.
BLOCK = 4096


def block_shape(leaves: Leaves) -> tuple[int, int]:
  """Returns `(number of blocks, block size)` for all coordinates."""
  total = sum(jnp.size(leaf) for leaf in leaves.values())
  size = min(BLOCK, total)
  return -(-total // size), size


def to_blocks(leaves: Leaves) -> Array:
  """Concatenates all coordinates in order and pads them with zeros.

  Args:
    leaves: Path to array of any shape. All arrays have the same dtype, and
      there is at least one coordinate.

  Returns:
    An array of shape `block_shape(leaves)`.
  """
  shape = block_shape(leaves)
  vector = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves.values()])
  padding = shape[0] * shape[1] - vector.size
  return jnp.pad(vector, (0, padding)).reshape(shape)


def from_blocks(blocks: Array, like: Leaves) -> dict[str, Array]:
  """Inverts `to_blocks`; leaves get the paths and shapes of `like`."""
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

  The backward pass skips every block whose cotangent is zero, except under
  `jax.vmap`, which computes both branches of a condition. Only reverse mode is
  supported: no `jax.jvp`, no Hessian.

  Args:
    function: `(phi, block) -> array`; a block lacks the leading axis.
    phi: Differentiable argument of `function`; the blocks are constants.
    blocks: Pytree of arrays with leading axes of equal length.

  Returns:
    The results, stacked along a leading axis.
  """

  @jax.custom_vjp
  def mapped(phi: Any, blocks: Any) -> Array:
    return lax.map(lambda block: function(phi, block), blocks)

  def forward(phi: Any, blocks: Any) -> tuple[Array, Any]:
    return mapped(phi, blocks), (phi, blocks)

  def backward(residuals: Any, cotangents: Array) -> tuple[Any, None]:
    phi, blocks = residuals

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
