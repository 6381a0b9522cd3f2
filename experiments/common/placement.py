"""Where the state of a run is: on every device, or divided over the devices.

With fully sharded data parallelism (FSDP), each device keeps a part of every
large array of the state: weights, pending gradients, and the states of the
optimizer and of the estimator. XLA gathers the weights of a layer where they
are used.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.common import parallel

# Numbers per array: copies of a smaller one between devices cost more than its
# division saves.
DIVIDED_FROM = 1024


class Placement(NamedTuple):
  """Functions that place a state on the devices.

  Attributes:
    put: `(state) -> state`, outside jit. Its leading axis of trials is never
      divided.
    keep: `(state, has_trials=…) -> state`, inside jit. `has_trials` is True if
      the arrays have a leading axis of trials.
  """

  put: Callable[[Any], Any]
  keep: Callable[..., Any]


def make_placement(mesh: Mesh, *, fsdp: bool) -> Placement:
  """Returns how a state is placed on a mesh of `parallel.data_mesh`.

  Args:
    mesh: Devices that each batch is split over.
    fsdp: True divides the large arrays; False copies all to every device.
  """

  def keep_replicated(state: Any, *, has_trials: bool) -> Any:
    del has_trials  # No axis is divided.
    return parallel.keep_replicated(state, mesh)

  if not fsdp:
    return Placement(
      lambda state: parallel.replicated(state, mesh), keep_replicated
    )

  def spec(leaf: Any, trial_axes: int) -> PartitionSpec:
    of_trial = spec_of(leaf.shape[trial_axes:], mesh.size)
    return PartitionSpec(*[None] * trial_axes, *of_trial)

  def put(leaf: Any) -> Any:
    sharding = NamedSharding(mesh, spec(leaf, 1))
    if sharding.is_fully_addressable:
      return jax.device_put(leaf, sharding)
    whole = parallel.replicated(leaf, mesh)
    return jax.jit(lambda leaf: leaf, out_shardings=sharding)(whole)

  def keep(state: Any, *, has_trials: bool) -> Any:
    return jax.tree.map(
      lambda leaf: parallel.constrained(leaf, mesh, spec(leaf, has_trials)),
      state,
    )

  return Placement(lambda state: jax.tree.map(put, state), keep)


def spec_of(shape: Sequence[int], devices: int) -> PartitionSpec:
  """Returns how an array of this shape is divided over the devices.

  Its longest axis is divided, of those whose length is a multiple of the number
  of devices. The memory of LSTMFC has blocks that are computed one after the
  other: their longest axis is that of the weights within a block.
  """
  fits = [axis for axis, length in enumerate(shape) if length % devices == 0]
  if not fits or math.prod(shape) < DIVIDED_FROM:
    return PartitionSpec()
  longest = max(fits, key=lambda axis: shape[axis])
  return PartitionSpec(*[None] * longest, 'data')
