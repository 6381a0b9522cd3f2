"""Smoke runs: `--smoke` runs a command in seconds, in folders of its own.

A smoke run trains the same network by the same code, on two small batches, and
tests it on a few training images; data sets declare their numbers. These values
are part of the configuration, so no table mistakes the run for another one.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from experiments.common.errors import InvalidError
from experiments.data.datasets import DATASETS
from experiments.records import workdir

HELP = (
  'Make a smoke run, which takes seconds: one epoch of two small batches, also'
  ' of the base model, in folders whose names end in -smoke.'
)
# Larger values of the configuration are reduced to these.
LARGEST: Mapping[str, int] = {
  **{'epochs': 1, 'pretrain_epochs': 1, 'trials': 2},
  # The small batches can be halved.
  'accumulate': 2,
}
STEPS = 2
_SUFFIX, _MARK = '-smoke', 'made-by-smoke'


def smoke_config(config: ConfigDict) -> ConfigDict:
  """Returns the configuration of the smoke run of a configuration."""
  changed = config.copy_and_resolve_references()
  changed.update({k: min(config[k], most) for k, most in LARGEST.items()})
  sizes = DATASETS[config.dataset].smoke
  changed.update(epoch_steps=STEPS, **sizes)
  return changed


def smoke_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder that replaces a folder in a smoke run.

  Raises:
    InvalidError: If the folder is the root of the file system.
  """
  path = pathlib.Path(folder)
  if path.name in ('', '..'):
    path = path.resolve()
  if not path.name:
    raise InvalidError(
      f'--smoke cannot add {_SUFFIX} to the name of {folder}. Use another'
      ' folder.'
    )
  return path.with_name(path.name + _SUFFIX)


def run_folder(folder: pathlib.Path) -> pathlib.Path:
  """Returns the folder whose smoke run is in a folder."""
  return folder.with_name(folder.name.removesuffix(_SUFFIX))


@contextlib.contextmanager
def locked_smoke_folder(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """Empties the folder of a smoke run, and locks it while the context lasts.

  Args:
    folder: Folder of the run itself.

  Yields:
    The result of `smoke_folder`, without the files of the last smoke run.

  Raises:
    BusyError: If a process has the folder of the smoke run.
    InvalidError: If that folder contains files that are not of a smoke run, or
      cannot be a folder.
  """
  path = smoke_folder(folder)
  mark = path / _MARK
  # A killed process may have left a new folder that contains only the lock.
  if not mark.exists() and path.is_dir() and _contents(path):
    raise InvalidError(
      f'--smoke replaces the folder {path}, but this folder is not from an'
      ' earlier --smoke. Move it away, or use another --workdir.'
    )
  with workdir.lock(path):
    mark.touch()
    for entry in _contents(path):
      if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
      else:
        entry.unlink()
    yield path


def empty_smoke_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """Does what `locked_smoke_folder` does, but keeps no lock.

  It is for a run that locks its folder itself.
  """
  with locked_smoke_folder(folder) as path:
    return path


def _contents(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the entries of a folder that a smoke run replaces."""
  own = (_MARK, workdir.LOCK)
  return [entry for entry in path.iterdir() if entry.name not in own]
