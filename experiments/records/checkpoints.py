"""Saves and restores checkpoints of a training run with orbax.

A checkpoint is a folder, named by its step, of three items: `state`, any pytree
of arrays; `progress`, a JSON object with the position in the data; and
`leaves`, the type and shape of every leaf of the state. With the last one, a
state of another configuration raises an error that names the leaves. Orbax
itself casts silently to the type of the template.

Orbax writes into a temporary folder and renames it. A process that is killed at
any moment leaves all checkpoints but the one that it was writing.
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
  """A restored checkpoint.

  Attributes:
    step: Number of updates.
    state: Pytree with the structure of the template.
    progress: JSON object that was saved with the state.
  """

  step: int
  state: Any
  progress: dict[str, Any]


def open_manager(
  directory: str | os.PathLike[str], keep: int = 2
) -> ocp.CheckpointManager:
  """Opens or creates a folder of checkpoints.

  Incomplete checkpoints of a killed process are removed, so only one process
  may have the folder open. Orbax's messages below a warning are hidden until
  `close`.

  Args:
    directory: Path of the folder. Missing parents are created.
    keep: Number of newest checkpoints to keep, at least 1.

  Returns:
    The manager, an argument of the other functions. The caller closes it with
    `close`.

  Raises:
    ValueError: If `keep` is less than 1.
  """
  if keep < 1:
    raise ValueError(f'keep is {keep}. It must be at least 1.')
  # Synchronous, because the training loop donates the buffers of the state to
  # its next chunk of steps, and orbax must have read them by then.
  options = ocp.CheckpointManagerOptions(
    preservation_policy=ocp.checkpoint_managers.LatestN(keep),
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
  )
  # Under `absl.app.run` every save would print dozens of lines. Some come from
  # threads of orbax, so the filter stays until `close`.
  logging.getLogger('absl').addFilter(_no_orbax_chatter)
  return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def save(
  manager: ocp.CheckpointManager,
  step: int,
  state: Any,
  progress: Mapping[str, Any],
) -> None:
  """Writes a checkpoint; it is on disk when the function returns.

  Args:
    manager: Manager from `open_manager`.
    step: Number of updates so far, larger than that of every checkpoint in the
      folder.
    state: Pytree of arrays and typed PRNG keys. Empty tuples are allowed.
    progress: JSON object. Floats are restored bit for bit.

  Raises:
    TypeError: If JSON cannot represent a value of `progress`.
    ValueError: If `step` is not above that of the newest checkpoint.
  """
  for name, value in progress.items():
    try:
      json.dumps(value)
    except TypeError as error:
      raise TypeError(
        f'progress[{name!r}] is {value!r}, a {type(value).__name__}, which JSON'
        ' cannot represent. Use an int, a float, a str, a list or a dict.'
      ) from error
  newest = manager.latest_step()
  if newest is not None and step <= newest:
    raise ValueError(
      f'step {step} is not above {newest}, the newest checkpoint in'
      f' {manager.directory}. Restore that one first, or use another --workdir.'
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
  """Reads the newest checkpoint, bit for bit.

  Args:
    manager: Manager from `open_manager`.
    template: Pytree with the structure of the saved state, of arrays or
      `jax.ShapeDtypeStruct`s. Each leaf is restored with the sharding of the
      template, or else to the default device.

  Returns:
    The checkpoint, or None if the folder has no checkpoint yet.

  Raises:
    UnreadableError: If the checkpoint cannot be read.
    InvalidError: If the state does not fit the template.
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
  _check_fit(folder, expected=_describe(template), saved=saved.leaves)
  with _unreadable(folder):
    state = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(_placed(template))
      ),
    ).state
  return Restored(step, state, saved.progress)


def close(manager: ocp.CheckpointManager) -> None:
  """Ends the threads of a manager, which cannot be used afterwards."""
  manager.close()
  logging.getLogger('absl').removeFilter(_no_orbax_chatter)


def _describe(tree: Any) -> dict[str, str]:
  """Returns type and shape of each leaf, such as `float32[2, 3]`, by path.

  An empty container counts as a leaf, because orbax saves it.
  """

  def childless(node: Any) -> bool:
    return not jax.tree_util.treedef_children(jax.tree.structure(node))

  def describe_leaf(leaf: Any) -> str:
    if not hasattr(leaf, 'dtype'):
      return type(leaf).__name__
    return f'{leaf.dtype}{list(leaf.shape)}'

  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=childless)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): describe_leaf(leaf)
    for path, leaf in leaves
  }


def _placed(template: Any) -> Any:
  """Returns the shapes, types and shardings of a template."""
  default = jnp.zeros(()).sharding

  def place_leaf(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
      return leaf
    return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf.sharding or default
    )

  return jax.tree.map(place_leaf, template)


def _check_fit(
  folder: Path, expected: Mapping[str, str], saved: Mapping[str, str]
) -> None:
  """Raises an InvalidError that names the leaves in which two states differ."""
  absent = 'absent'
  differ = [
    f'  {name}: {saved.get(name, absent)} in the checkpoint, '
    f'{expected.get(name, absent)} in this run'
    for name in dict.fromkeys([*expected, *saved])
    if expected.get(name) != saved.get(name)
  ]
  if not differ:
    return
  shown = 8
  if len(differ) > shown:
    differ = [*differ[:shown], f'  and {len(differ) - shown} more']
  raise InvalidError(
    f'The checkpoint {folder} belongs to another configuration:\n'
    + '\n'.join(differ)
    + '\nUse another --workdir, or the configuration of that checkpoint.'
  )


@contextlib.contextmanager
def _unreadable(folder: Path) -> Iterator[None]:
  """Turns any error into one that names the folder and the remedy."""
  try:
    yield
  except Exception as error:
    raise UnreadableError(
      f'The checkpoint {folder} cannot be read ({error}). Delete that folder'
      ' and rerun the command to resume from the previous checkpoint.'
    ) from error


def _no_orbax_chatter(record: logging.LogRecord) -> bool:
  """Hides only messages of orbax below a warning; a filter for a logger."""
  orbax = 'orbax' in Path(record.pathname).parts
  return not orbax or record.levelno >= logging.WARNING
