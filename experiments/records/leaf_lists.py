"""The type, shape and digest of each leaf of a checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import parallel
from experiments.common.errors import InvalidError
from mq_jax.selection import named_leaves


def types(tree: Any) -> dict[str, str]:
  """Returns type and shape of each leaf, such as `float32[2, 3]`, by path.

  An empty container counts as a leaf, because orbax saves it.
  """

  def has_no_children(node: Any) -> bool:
    return not jax.tree_util.treedef_children(jax.tree.structure(node))

  return {
    path: f'{leaf.dtype}{list(leaf.shape)}'
    if hasattr(leaf, 'dtype')
    else type(leaf).__name__
    for path, leaf in named_leaves(tree, has_no_children).items()
  }


def digests(state: Any) -> dict[str, str]:
  """Returns the SHA-256 of the bytes of each leaf by path."""

  def digest(leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(parallel.host_array(leaf)).reshape(-1)
    return hashlib.sha256(array.view(np.uint8).data).hexdigest()

  return {path: digest(leaf) for path, leaf in named_leaves(state).items()}


def digest_of_rest(step: int, *parts: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of the step and of JSON objects."""
  text = json.dumps([step, *parts], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def check_fit(
  folder: Path, expected: Mapping[str, str], saved: Mapping[str, str]
) -> None:
  """Raises an InvalidError that names the leaves in which two states differ."""
  differ = [
    f'  {name}: {saved.get(name, "absent")} in the checkpoint,'
    f' {expected.get(name, "absent")} in this run'
    for name in dict.fromkeys([*expected, *saved])
    if expected.get(name) != saved.get(name)
  ]
  if len(differ) > 8:
    differ[8:] = [f'  and {len(differ) - 8} more']
  if differ:
    raise InvalidError(
      f'The checkpoint {folder} belongs to another configuration:\n'
      + '\n'.join(differ)
      + '\nUse another --workdir, or the configuration of that checkpoint.'
    )
