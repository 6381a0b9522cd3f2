"""Reads values of arrays into the memory of the host."""

from typing import Any

import jax
from jax.experimental import multihost_utils


def on_host(tree: Any) -> Any:
  """Returns a pytree with its arrays as NumPy arrays.

  If an array is divided among processes, every process must call the function,
  and every process receives the whole array.

  Args:
    tree: Pytree of arrays, on devices or in host memory. Does not work under
      jit.
  """
  return jax.device_get(jax.tree.map(_whole, tree))


def _whole(leaf: Any) -> Any:
  is_divided = (
    isinstance(leaf, jax.Array)
    and not leaf.is_fully_addressable
    and not leaf.is_fully_replicated
  )
  if is_divided:
    return multihost_utils.process_allgather(leaf, tiled=True)
  return leaf
