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

# Numbers. Copies of a smaller array between devices cost more than its division
# saves.
MIN_DIVIDED_SIZE = 1024


class Placement(NamedTuple):
  """Functions that place the arrays of a state on the devices.

  States have a leading axis of trials, which is never divided, unless
  `trial_axes` is 0.

  Attributes:
    shapes: `(state, trial_axes=1) -> shapes` with the shardings of the arrays;
      the state may consist of shapes too.
    put: `(state) -> state`, outside jit. It makes no copy of an array that is
      already there.
    keep: `(state, trial_axes=1) -> state`, inside jit.
  """

  shapes: Callable[..., Any]
  put: Callable[[Any], Any]
  keep: Callable[..., Any]


def make_placement(mesh: Mesh, *, fsdp: bool) -> Placement:
  """Returns how a state is placed on a mesh of `parallel.data_mesh`.

  Args:
    mesh: Devices that each batch is split over.
    fsdp: True divides the large arrays; False copies all to every device.
  """

  def spec(leaf: Any, trial_axes: int) -> PartitionSpec:
    if not fsdp:
      return PartitionSpec()
    of_trial = spec_of(leaf.shape[trial_axes:], mesh.size)
    return PartitionSpec(*[None] * trial_axes, *of_trial)

  def shapes(state: Any, trial_axes: int = 1) -> Any:
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape,
        leaf.dtype,
        sharding=NamedSharding(mesh, spec(leaf, trial_axes)),
      ),
      state,
    )

  def put(state: Any) -> Any:
    if not fsdp:
      return parallel.replicated(state, mesh)
    shardings = jax.tree.map(lambda shape: shape.sharding, shapes(state))
    if all(jax.tree.leaves(jax.tree.map(_is_placed, state, shardings))):
      return state
    if NamedSharding(mesh, PartitionSpec()).is_fully_addressable:
      return jax.device_put(state, shardings)
    whole = parallel.replicated(state, mesh)
    return jax.jit(lambda state: state, out_shardings=shardings)(whole)

  def keep(state: Any, trial_axes: int = 1) -> Any:
    return jax.tree.map(
      lambda leaf: parallel.constrained(leaf, mesh, spec(leaf, trial_axes)),
      state,
    )

  return Placement(shapes, put, keep)


def spec_of(shape: Sequence[int], devices: int) -> PartitionSpec:
  """Returns how an array of this shape is divided over the devices.

  The longer of the last two axes is divided, of those whose length is a
  multiple of the number of devices. Other axes stay whole: those of a filter,
  and the blocks of LSTMFC's memory, which are computed one after the other.
  """
  last_two = range(max(0, len(shape) - 2), len(shape))
  fits = [axis for axis in last_two if shape[axis] % devices == 0]
  if not fits or math.prod(shape) < MIN_DIVIDED_SIZE:
    return PartitionSpec()
  longest = max(fits, key=lambda axis: shape[axis])
  return PartitionSpec(*[None] * longest, 'data')


def _is_placed(leaf: Any, sharding: NamedSharding) -> bool:
  return isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(
    sharding, leaf.ndim
  )
