"""Trials as a batch axis, and batches split over devices.

Trials of one configuration differ in their seeds. All arrays have a leading
axis of trials, even if there is only one trial.

Devices form one axis, 'data', over which each batch is split. All other arrays
are replicated, unless `placement` divides those of the state. XLA inserts the
sums between the devices: gradients and batch statistics are those of the whole
batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.common import processes
from experiments.common.errors import InvalidError


def over_trials(
  function: Callable[..., Any], trials: int
) -> Callable[..., Any]:
  """Extends a function of one trial to all trials, as a batch axis.

  A batch of trials fills an accelerator. On CPU, a convolution with separate
  filters for every trial is many times slower, so `experiments.study` gives
  each trial its own run there.

  Args:
    function: `(tree, *shared) -> tree`; `tree` holds the pytrees of one trial.
    trials: Number of trials.

  Returns:
    The function of pytrees with a leading axis of trials.
  """
  if trials == 1:
    return lambda trees, *shared: stack([function(pick(trees, 0), *shared)])

  def apply(trees: Any, *shared: Any) -> Any:
    return jax.vmap(lambda tree: function(tree, *shared))(trees)

  return apply


def stack(trees: Sequence[Any]) -> Any:
  """Stacks pytrees, one per trial, along a new leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree: Any, trial: int) -> Any:
  """Returns the part of one trial from a pytree with a leading axis."""
  return jax.tree.map(lambda leaf: leaf[trial], tree)


def split(tree: Any, trials: int) -> list[Any]:
  """Returns the part of each trial from a pytree with a leading axis."""
  return [pick(tree, trial) for trial in range(trials)]


def data_mesh(devices: int) -> Mesh:
  """Returns a mesh of this many devices, or of all devices if it is -1.

  Raises:
    InvalidError: If there are fewer devices, or several processes do not use
      all of them.
  """
  available = jax.devices()
  if processes.are_several() and devices not in (-1, len(available)):
    raise InvalidError(
      f'config.mesh_data={devices} must be -1 if several processes train'
      f' together: they use all of their {len(available)} devices.'
    )
  if devices > len(available):
    raise InvalidError(
      f'config.mesh_data={devices}, but jax sees {len(available)} devices.'
      ' A value of -1 takes all of them.'
    )
  chosen = available if devices == -1 else available[:devices]
  return jax.make_mesh(
    (len(chosen),),
    ('data',),
    devices=chosen,
    axis_types=(jax.sharding.AxisType.Auto,),
  )


def replicated(tree: Any, mesh: Mesh) -> Any:
  """Copies a whole pytree to every device.

  All processes must have the same pytree; nothing is sent between them.
  """
  sharding = NamedSharding(mesh, PartitionSpec())
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda leaf: _shared(leaf, sharding), tree)


def _shared(leaf: Any, sharding: NamedSharding) -> Any:
  """Makes an array of several processes from the equal array of each of them.

  For an array of one process, `jax.device_put` would send it to all processes
  to compare it.
  """
  if isinstance(leaf, jax.core.Tracer):
    return jax.device_put(leaf, sharding)
  is_array = isinstance(leaf, jax.Array)
  if is_array and not leaf.is_fully_addressable:
    if leaf.is_fully_replicated:
      return leaf
    return _placed(sharding)(leaf)
  if is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _shared(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  host = np.asarray(leaf)
  return jax.make_array_from_callback(
    host.shape, sharding, host.__getitem__, dtype=host.dtype
  )


@functools.cache
def _placed(sharding: NamedSharding) -> Callable[[Any], Any]:
  """Returns a function that copies an array of all processes to `sharding`."""
  return jax.jit(lambda leaf: leaf, out_shardings=sharding)


def host_array(leaf: Any) -> np.ndarray:
  """Copies a whole array to the host, also one divided among processes.

  All processes must call the function, with the same array.
  """
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    leaf = _shared(leaf, everywhere())
  return np.asarray(leaf)


def shared(tree: Any) -> Any:
  """Copies a pytree to all devices if several processes train together.

  They can compute only with arrays that are on the devices of all of them. With
  one process the function returns its argument.
  """
  return replicated(tree, data_mesh(-1)) if processes.are_several() else tree


def everywhere() -> NamedSharding:
  """Returns the sharding of a whole array on all devices of all processes."""
  return NamedSharding(data_mesh(-1), PartitionSpec())


def keep_replicated(tree: Any, mesh: Mesh) -> Any:
  """Keeps a whole pytree on every device, inside jit."""
  return constrained(tree, mesh, PartitionSpec())


def split_batch(batch: Any, mesh: Mesh) -> Any:
  """Splits the leading axis of arrays over the devices, inside jit."""
  return constrained(batch, mesh, PartitionSpec('data'))


def constrained(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
  """Keeps the arrays of a pytree divided as `spec` says, inside jit."""
  if mesh.size == 1:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))
