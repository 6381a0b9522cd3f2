"""One axis of devices, 'data', over which each batch is split.

Everything else lies on every device, whole. XLA puts in the sums between the
devices: gradients and batch statistics are those of the whole batch.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.common.errors import InvalidError


def data_mesh(devices: int) -> Mesh:
  """A mesh of this many devices; -1 stands for all there are.

  Raises:
    InvalidError: If there are fewer.
  """
  there = jax.devices()
  if devices > len(there):
    raise InvalidError(
      f'config.mesh_data={devices}, but jax sees {len(there)} devices:'
      ' -1 takes all there are'
    )
  chosen = there if devices == -1 else there[:devices]
  return jax.make_mesh(
    (len(chosen),),
    ('data',),
    devices=chosen,
    axis_types=(jax.sharding.AxisType.Auto,),
  )


def replicated(tree: Any, mesh: Mesh) -> Any:
  """Puts a pytree on every device, whole."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def kept_replicated(tree: Any, mesh: Mesh) -> Any:
  """Inside jit: a pytree that stays on every device, whole."""
  if mesh.size == 1:
    return tree
  return jax.lax.with_sharding_constraint(
    tree, NamedSharding(mesh, PartitionSpec())
  )


def split_batch(batch: Any, mesh: Mesh) -> Any:
  """Inside jit: arrays whose leading axis is split over the devices."""
  if mesh.size == 1:
    return batch
  return jax.lax.with_sharding_constraint(
    batch, NamedSharding(mesh, PartitionSpec('data'))
  )
