"""Checkpoints of a training run, kept by orbax.

A checkpoint is one folder, named by its step, of three items: `state`, any
pytree of arrays; `progress`, a JSON object that says where in the data the run
stands; and `leaves`, the type and shape of every leaf of the state, so that a
state of another configuration is refused by name. Orbax itself casts silently
to the type of the template.

Orbax writes into a temporary folder and renames it, so a process killed at any
moment leaves the checkpoints before the one it was writing.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from experiments.common.errors import InvalidError, UnreadableError


class Restored(NamedTuple):
  """One checkpoint, read back.

  Attributes:
    step: the number of updates it was saved under.
    state: a pytree with the structure of the template.
    progress: the JSON object that was saved with it.
  """

  step: int
  state: Any
  progress: dict[str, Any]


def open_manager(
  directory: str | os.PathLike[str], keep: int = 2
) -> ocp.CheckpointManager:
  """Opens, or makes, a folder of checkpoints.

  What a killed process left half-written is removed, so only one process may
  have the folder open. Orbax's messages below a warning are hidden from here
  until `close`.

  Args:
    directory: the folder; made together with its parents.
    keep: how many of the newest checkpoints stay, at least 1.

  Returns:
    The manager that the other functions take; hand it to `close` at the end.

  Raises:
    ValueError: where `keep` is less than 1.
  """
  if keep < 1:
    raise ValueError(f'keep is {keep}; at least 1 checkpoint must stay')
  # Synchronous: the training loop donates the state's buffers to its next
  # chunk of steps, and nothing may still be reading them by then.
  options = ocp.CheckpointManagerOptions(
    preservation_policy=ocp.checkpoint_managers.LatestN(keep),
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
  )
  # Under `absl.app.run` every save would print dozens of lines, some of them
  # from orbax's threads: hence from here to `close`, not call by call.
  logging.getLogger('absl').addFilter(_no_orbax_chatter)
  return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def save(
  manager: ocp.CheckpointManager,
  step: int,
  state: Any,
  progress: Mapping[str, Any],
) -> None:
  """Writes one checkpoint; it is on disk when this returns.

  Args:
    manager: from `open_manager`.
    step: the number of updates so far; above that of every checkpoint there.
    state: a pytree of arrays, of typed PRNG keys too; empty tuples are fine.
    progress: a JSON object. Floats come back bit for bit.

  Raises:
    TypeError: where `progress` holds what JSON cannot.
    ValueError: where `step` is not above the newest checkpoint's.
  """
  for name, value in progress.items():
    try:
      json.dumps(value)
    except TypeError as error:
      raise TypeError(
        f'progress[{name!r}] is {value!r}, a {type(value).__name__}, which '
        'JSON cannot hold; make it an int, a float, a str, a list or a dict'
      ) from error
  newest = manager.latest_step()
  if newest is not None and step <= newest:
    raise ValueError(
      f'step {step} is not above {newest}, the newest checkpoint in '
      f'{manager.directory}; restore that one first or use another --workdir'
    )
  manager.save(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      progress=ocp.args.JsonSave(dict(progress)),
      leaves=ocp.args.JsonSave(_describe(state)),
    ),
  )


def restore_latest(
  manager: ocp.CheckpointManager, template: Any
) -> Restored | None:
  """Reads the newest checkpoint back, bit for bit.

  Args:
    manager: from `open_manager`.
    template: a pytree with the structure of the saved state, its leaves arrays
      or `jax.ShapeDtypeStruct`s. An array's sharding is used; without one the
      leaf goes to the default device, wherever it was saved.

  Returns:
    The checkpoint, or None where there is none yet.

  Raises:
    RuntimeError: where the checkpoint cannot be read.
    ValueError: where its state does not fit the template.
  """
  step = manager.latest_step()
  if step is None:
    return None
  folder = Path(manager.directory) / str(step)
  with _unreadable(folder):
    saved = manager.restore(
      step,
      args=ocp.args.Composite(
        progress=ocp.args.JsonRestore(), leaves=ocp.args.JsonRestore()
      ),
    )
  _check_fit(folder, here=_describe(template), there=saved.leaves)
  with _unreadable(folder):
    state = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(_placed(template))
      ),
    ).state
  return Restored(step, state, saved.progress)


def close(manager: ocp.CheckpointManager) -> None:
  """Ends the manager's threads; it cannot be used afterwards."""
  manager.close()
  logging.getLogger('absl').removeFilter(_no_orbax_chatter)


def _describe(tree: Any) -> dict[str, str]:
  """The type and shape of each leaf, such as `float32[2, 3]`, by path.

  An empty container counts as a leaf: orbax, too, tells it from none.
  """

  def childless(node: Any) -> bool:
    return not jax.tree_util.treedef_children(jax.tree.structure(node))

  def one(leaf: Any) -> str:
    if not hasattr(leaf, 'dtype'):
      return type(leaf).__name__
    return f'{leaf.dtype}{list(leaf.shape)}'

  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=childless)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): one(leaf)
    for path, leaf in leaves
  }


def _placed(template: Any) -> Any:
  """The template as shapes, types and devices."""
  default = jnp.zeros(()).sharding

  def one(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
      return leaf
    return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf.sharding or default
    )

  return jax.tree.map(one, template)


def _check_fit(
  folder: Path, here: Mapping[str, str], there: Mapping[str, str]
) -> None:
  """Raises a ValueError that names the leaves in which two states differ."""
  absent = 'absent'
  differ = [
    f'  {name}: {there.get(name, absent)} in the checkpoint, '
    f'{here.get(name, absent)} here'
    for name in dict.fromkeys([*here, *there])
    if here.get(name) != there.get(name)
  ]
  if not differ:
    return
  shown = 8
  if len(differ) > shown:
    differ = [*differ[:shown], f'  and {len(differ) - shown} more']
  raise InvalidError(
    f'the checkpoint {folder} is of another configuration:\n'
    + '\n'.join(differ)
    + '\nUse another --workdir, or the configuration it was written with.'
  )


@contextlib.contextmanager
def _unreadable(folder: Path) -> Iterator[None]:
  """Says which folder is damaged, and what to do, if reading fails."""
  try:
    yield
  except Exception as error:
    raise UnreadableError(
      f'the checkpoint {folder} cannot be read ({error}); delete that folder '
      'to go on from the one before it'
    ) from error


def _no_orbax_chatter(record: logging.LogRecord) -> bool:
  """A log filter: hides what orbax says below a warning, and nothing else."""
  orbax = 'orbax' in Path(record.pathname).parts
  return not orbax or record.levelno >= logging.WARNING
