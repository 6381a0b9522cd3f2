"""Saves and restores checkpoints of a training run with orbax.

A checkpoint is a folder, named by its step, of three items: `state`, any pytree
of arrays; `progress`, a JSON object with the position in the data; and
`leaves`, the type and shape of every leaf of the state. If a state belongs to
another configuration, the error lists the leaves that differ. Orbax itself
casts silently to the type of the template.

Orbax writes into a temporary folder and renames it. If a process is killed,
only the checkpoint that it was writing is lost.
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
from mq_jax.selection import named_leaves

KEPT = 2  # Number of newest checkpoints that stay in the folder.


class Restored(NamedTuple):
  """The content of a checkpoint.

  Attributes:
    step: Number of updates.
    state: Pytree with the structure of the template.
    progress: JSON object that was saved with the state.
  """

  step: int
  state: Any
  progress: dict[str, Any]


@contextlib.contextmanager
def open_manager(
  directory: str | os.PathLike[str],
) -> Iterator[ocp.CheckpointManager]:
  """Opens or creates a folder of checkpoints.

  Incomplete checkpoints of a killed process are removed, so only one process
  may have the folder open. The context hides the messages of orbax below a
  warning.

  Args:
    directory: Path of the folder. Missing parents are created.

  Yields:
    The manager, an argument of the other functions.
  """
  # Synchronous, because the training loop donates the buffers of the state to
  # its next chunk of steps, and orbax must have read them by then.
  options = ocp.CheckpointManagerOptions(
    preservation_policy=ocp.checkpoint_managers.LatestN(KEPT),
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
  )
  # Under `absl.app.run` every save would print dozens of lines. Some come from
  # threads of orbax, so the filter stays until the manager is closed.
  logger = logging.getLogger('absl')
  logger.addFilter(_no_orbax_chatter)
  try:
    path = Path(directory).absolute()
    with ocp.CheckpointManager(path, options=options) as manager:
      yield manager
  finally:
    logger.removeFilter(_no_orbax_chatter)


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
  json.dumps(dict(progress))  # An error must come before orbax writes.
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
  folder, expected = Path(manager.directory) / str(step), _describe(template)
  default = jnp.zeros(()).sharding
  placed = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf.sharding or default
    ),
    template,
  )
  try:
    saved = manager.restore(
      step,
      args=ocp.args.Composite(
        progress=ocp.args.JsonRestore(), leaves=ocp.args.JsonRestore()
      ),
    )
    _check_fit(folder, expected, saved.leaves)
    state = manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(placed))
    ).state
  except InvalidError:
    raise
  except Exception as error:
    raise UnreadableError(
      f'The checkpoint {folder} cannot be read ({error}). Delete that folder'
      ' and rerun the command to resume from the previous checkpoint.'
    ) from error
  return Restored(step, state, saved.progress)


def _describe(tree: Any) -> dict[str, str]:
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


def _check_fit(
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


def _no_orbax_chatter(record: logging.LogRecord) -> bool:
  """Returns False for messages of orbax below a warning, to filter a log."""
  orbax = 'orbax' in Path(record.pathname).parts
  return not orbax or record.levelno >= logging.WARNING
