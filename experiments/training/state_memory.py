"""The memory that the state of a run needs, known before it is allocated."""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.filesize import decimal

from experiments.common.errors import InvalidError
from experiments.training.position import Saved

# Fields of `mq_jax.State`, by the part of the description that they belong to.
# The others have a few bytes.
PARTS = {
  'weights': ('params', 'model_state', 'variables'),
  'gradients': ('grads',),
  'optimizer': ('refine_state', 'post_update_state'),
  'estimator': ('phi', 'meta_opt_state', 'estimator_state'),
}


def bytes_per_device(shapes: Saved) -> dict[str, int]:
  """Returns the bytes that one device keeps between steps, by part.

  Args:
    shapes: Shapes, types and shardings of all arrays.
  """

  def size(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return 0
    shape = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * int(leaf.dtype.itemsize)

  def sizes(tree: Any) -> int:
    return sum(size(leaf) for leaf in jax.tree.leaves(tree))

  fields = shapes.state._asdict()
  return {
    part: sizes([fields[name] for name in names])
    for part, names in PARTS.items()
  } | {'codes': sizes(shapes.codes)}


def describe_state(
  config: ConfigDict, shapes: Saved, available: int | None
) -> str:
  """Returns a line with the size of the state and of its large parts.

  Args:
    config: Configuration of the run.
    shapes: As for `bytes_per_device`.
    available: Bytes that JAX may use on one device; None if they are unknown.

  Raises:
    InvalidError: If the state alone is larger than that.
  """
  parts = bytes_per_device(shapes)
  whole = sum(parts.values())
  sizes = sorted(parts.items(), key=lambda item: -item[1])
  large = [(part, n) for part, n in sizes if n > whole / 1000]
  listed = ', '.join(f'{part} {decimal(n)}' for part, n in large)
  if available is not None and whole > available:
    raise InvalidError(
      f'The state of this run needs {decimal(whole)} per device ({listed}), but'
      f' JAX may use {decimal(available)} there.'
      f' {_remedy(config, sizes[0][0])}'
    )
  per_device = ' per device' if config.fsdp else ''
  return f'state: {decimal(whole)}{per_device} ({listed})'


def available_memory() -> int | None:
  """Returns the bytes that JAX may use on a device; None if they are unknown.

  A device that is a part of the host may use the memory of the host.
  """
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    try:
      return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):  # Not every system says it.
      return None
  return (device.memory_stats() or {}).get('bytes_limit')


def _remedy(config: ConfigDict, largest: str) -> str:
  """Returns what makes the state smaller."""
  ways = []
  if config.trials > 1:
    ways.append('fewer config.trials')
  if not config.fsdp:
    ways.append('config.fsdp=True with several devices (config.mesh_data)')
  if largest == 'estimator':
    if config.estimator == 'lstm_fc' and not config.grid_points:
      if config.memory_dtype == 'float32':
        ways.append('config.memory_dtype=bfloat16')
      ways.append('config.grid_points=32 with config.memory_dtype=float32')
    ways.append('a smaller config.hidden')
  return f'Try {" or ".join(ways)}.' if ways else 'Use a smaller network.'
