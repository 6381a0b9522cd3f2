"""Saves and restores checkpoints of a training run with orbax.

A checkpoint is a folder, named by its step, of four items: `state`, any pytree
of arrays; `progress`, a JSON object with the position in the data; `leaves`,
the type and shape of every leaf of the state; and `digests`, the SHA-256 of
every leaf, and of all the rest. If a state belongs to another configuration,
the error lists the leaves that differ. Orbax itself casts silently to the type
of the template, and loads arrays whose bytes have changed on the disk.

Orbax writes into a temporary folder and renames it. If a process is killed,
only the checkpoint that it was writing is lost. A checkpoint that is damaged
later is set aside, and the one before it is read.

Several processes that train together save and restore together: orbax writes
each array once, and all of them read the same folder.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from experiments.common import parallel, processes
from experiments.common.errors import (
  MissingError,
  UnreadableError,
  UnwritableError,
)
from experiments.records import leaf_lists
from experiments.records.orbax_messages import (
  cause_of,
  failures,
  no_orbax_chatter,
)

# Number of newest checkpoints that stay in the folder. If the newest one is
# damaged, a run resumes from the one before it.
KEPT = 2
_JSON_ITEMS = ('progress', 'leaves', 'digests')
_INCOMPLETE = 'orbax-checkpoint-tmp'  # Orbax's ending of such a folder.
_REST = ''  # Key of the digest of the items other than `state`.


class DamagedError(Exception):
  """A checkpoint is not the one that was saved, or must not be used."""


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

  Incomplete checkpoints of a killed process and empty folders are removed, so
  only one process may have the folder open. A file in the place of a
  checkpoint is set aside. The context hides the messages of orbax; errors have
  the messages of this module.

  Args:
    directory: Path of the folder. Missing parents are created.

  Raises:
    OSError: If the folder cannot be made, read or written.
    UnreadableError: If the description of a checkpoint is damaged.

  Yields:
    The manager, an argument of the other functions.
  """
  # Synchronous, because the training loop donates the buffers of the state to
  # its next chunk of steps, and orbax must have read them by then.
  options = ocp.CheckpointManagerOptions(
    preservation_policy=ocp.checkpoint_managers.LatestN(KEPT),
    enable_async_checkpointing=False,
  )
  # Under `absl.app.run` every save would print dozens of lines. Some come from
  # threads of orbax, so the filter stays until the manager is closed.
  logger = logging.getLogger('absl')
  logger.addFilter(no_orbax_chatter)
  try:
    path = Path(directory).absolute()
    processes.from_first(lambda: _make_folder(path))
    processes.together(lambda: _check_access(path))
    with _open(path, options) as manager:
      yield manager
  finally:
    logger.removeFilter(no_orbax_chatter)


def _make_folder(path: Path) -> None:
  path.mkdir(parents=True, exist_ok=True)
  _check_access(path)
  _clear_places(path)


def _check_access(path: Path) -> None:
  """Refuses a folder that cannot be written.

  Orbax would notice only when the first checkpoint is written.
  """
  if not path.is_dir():
    raise MissingError(
      f'{path} exists in process 0, but not in process {jax.process_index()}.'
      ' All processes need the same --workdir on a shared disk.'
    )
  if not os.access(path, os.W_OK | os.X_OK):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


class _Manager(ocp.CheckpointManager):
  """A manager that leaves the question of preemption to `processes`.

  Orbax would ask JAX with the number of the step. JAX keeps the largest number
  that it was asked with, and would then miss a signal for as many of our calls.
  """

  def reached_preemption(self, step: int) -> bool:
    """Returns False."""
    del step
    return False


def _open(
  path: Path, options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
  """Opens a folder; orbax reads the description of each checkpoint."""
  try:
    return _Manager(path, options=options)
  except OSError:
    raise
  except Exception as error:
    raise UnreadableError(
      f'The checkpoints in {path} cannot be listed ({cause_of(error)}). Restore'
      ' the folder from a copy, or delete the newest checkpoint in it and rerun'
      ' the command to resume from the one before it.'
    ) from error


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
    UnwritableError: If the checkpoint cannot be written, for instance because
      the disk is full.
  """
  # JSON turns tuples into lists. An error must come before orbax writes.
  progress = json.loads(json.dumps(dict(progress)))
  newest = manager.latest_step()
  if newest is not None and step <= newest:
    raise ValueError(
      f'step {step} is not above {newest}, the newest checkpoint in'
      f' {manager.directory}. Restore that one first, or use another --workdir.'
    )
  leaves, digests = leaf_lists.types(state), leaf_lists.digests(state)
  digests[_REST] = leaf_lists.digest_of_rest(step, progress, leaves, digests)
  with failures() as causes:
    manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        progress=ocp.args.JsonSave(progress),
        leaves=ocp.args.JsonSave(leaves),
        digests=ocp.args.JsonSave(digests),
      ),
    )
  if causes:
    kept = 'There is no earlier checkpoint'
    if newest is not None:
      kept = f'The checkpoint of step {newest} is unchanged'
    raise UnwritableError(
      f'The checkpoint of step {step} cannot be written to {manager.directory}'
      f' ({causes[0]}). {kept}. Free space on the disk or correct the'
      ' permissions, then rerun the command to resume.'
    )


def restore_latest(
  manager: ocp.CheckpointManager,
  template: Any,
  *,
  check: Callable[[Any], None] = lambda state: None,
  notify: Callable[[str], object] = print,
) -> Restored | None:
  """Reads the newest checkpoint that is undamaged, bit for bit.

  Newer ones, which are damaged, get the ending `.damaged`, and their steps can
  be saved again.

  Args:
    manager: Manager from `open_manager`.
    template: Pytree with the structure of the saved state, of arrays or
      `jax.ShapeDtypeStruct`s. Each leaf is restored with the sharding of the
      template, or else to the default device.
    check: `(state)`, raises a `DamagedError` if the state must not be used.
    notify: `(text)`, receives a message about each checkpoint set aside.

  Returns:
    The checkpoint, or None if the folder has no checkpoint yet.

  Raises:
    UnreadableError: If every checkpoint is damaged; none is set aside then.
    InvalidError: If the state does not fit the template.
  """
  if not processes.are_several():
    return _newest_undamaged(manager, template, check, notify)
  directory = Path(manager.directory)

  def find() -> int | None:
    own = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template
    )
    with ocp.CheckpointManager(directory, options=_alone()) as alone:
      found = _newest_undamaged(alone, own, check, notify)
    return None if found is None else found.step

  # Process 0 decides alone, because a wait of orbax for the other processes
  # would not end if only some of them could read a file.
  step = processes.from_first(find)
  manager.reload()
  if step is None:
    return None
  try:
    return _restore(manager, step, template, check, parallel.everywhere())
  except DamagedError as error:
    raise UnreadableError(
      f'The checkpoint of step {step} in {directory} is readable in process 0,'
      f' but not in process {jax.process_index()} ({error}). All processes need'
      ' the same folder on a shared disk.'
    ) from error


def _alone() -> ocp.CheckpointManagerOptions:
  """Returns the options of a manager that process 0 has for itself."""
  own = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix='alone'
  )
  return ocp.CheckpointManagerOptions(
    create=False, read_only=True, multiprocessing_options=own
  )


def _newest_undamaged(
  manager: ocp.CheckpointManager,
  template: Any,
  check: Callable[[Any], None],
  notify: Callable[[str], object],
) -> Restored | None:
  """Reads the newest undamaged checkpoint, and sets newer ones aside."""
  directory = Path(manager.directory)
  damaged: dict[int, str] = {}
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      restored = _restore(manager, step, template, check)
    except DamagedError as error:
      damaged[step] = str(error)
      continue
    for bad, cause in damaged.items():
      aside = _set_aside(directory / str(bad))
      notify(
        f'The checkpoint of step {bad} is damaged ({cause}) and is now'
        f' {aside}. The run resumes from the checkpoint of step {step}.'
      )
    if damaged:
      manager.reload()
    return restored
  if damaged:
    causes = '; '.join(f'step {step}: {damaged[step]}' for step in damaged)
    raise UnreadableError(
      f'No checkpoint in {directory} can be read ({causes}). Restore the folder'
      ' from a copy, or delete it and rerun the command to train from the'
      ' start.'
    )
  return None


def _restore(
  manager: ocp.CheckpointManager,
  step: int,
  template: Any,
  check: Callable[[Any], None],
  sharding: jax.sharding.Sharding | None = None,
) -> Restored:
  """Reads one checkpoint; raises a DamagedError if it cannot be used.

  Leaves of the template without a sharding get `sharding`.
  """
  default = sharding or jnp.zeros(()).sharding
  placed = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf.sharding or default
    ),
    template,
  )
  with failures() as causes:
    saved = manager.restore(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.JsonRestore() for name in _JSON_ITEMS}
      ),
    )
    progress, leaves, digests = (saved[name] for name in _JSON_ITEMS)
    rest = digests.pop(_REST)
  if causes:
    raise DamagedError(causes[0])
  if rest != leaf_lists.digest_of_rest(step, progress, leaves, digests):
    raise DamagedError('its progress or its list of leaves has changed')
  folder = Path(manager.directory) / str(step)
  leaf_lists.check_fit(folder, leaf_lists.types(template), leaves)
  with failures() as causes:
    state = manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(placed))
    ).state
  if causes:
    raise DamagedError(causes[0])
  # Without one of its files, orbax returns the raw numbers of a PRNG key.
  if leaf_lists.types(state) != leaves:
    raise DamagedError('its state has leaves of other types or shapes')
  found = leaf_lists.digests(state)
  if changed := [path for path in found if found[path] != digests.get(path)]:
    raise DamagedError(f'its leaf {changed[0]} has changed')
  check(state)
  return Restored(step, state, progress)


def _clear_places(directory: Path) -> None:
  """Removes incomplete and empty checkpoints; sets files in their places aside.

  Orbax would remove incomplete checkpoints too, but in a thread that may still
  run when the manager is closed.
  """
  for path in directory.iterdir():
    step, _, ending = path.name.partition('.')
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder and step.isdecimal() and ending.startswith(_INCOMPLETE):
      shutil.rmtree(path)
    # Orbax takes every such entry for a checkpoint.
    if not path.name.isdecimal():
      continue
    if not path.is_dir():
      _set_aside(path)
    elif not any(entry.is_file() for entry in path.rglob('*')):
      shutil.rmtree(path)


def _set_aside(path: Path) -> Path:
  """Renames a file or folder to a free name, and returns that name."""
  aside = path.with_name(f'{path.name}.damaged')
  number = 1
  while aside.exists():
    number += 1
    aside = path.with_name(f'{path.name}.damaged{number}')
  path.rename(aside)
  return aside
