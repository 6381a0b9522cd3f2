"""Rehearsals: `--smoke` runs a command in seconds, in folders of its own.

A rehearsal trains the same network by the same code, on two small batches, and
tests it on a few training images. These values are part of the configuration,
so no table mistakes the run for another one.
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.common.errors import InvalidError

HELP = (
  'Rehearse the command in seconds: one epoch of two small batches, also of the'
  ' base model, in folders whose names end in -smoke.'
)
# Larger values of the configuration are reduced to these.
LARGEST: Mapping[str, int] = {'epochs': 1, 'pretrain_epochs': 1, 'trials': 2}
VALUES: Mapping[str, Any] = {'epoch_steps': 2, 'batch_size': 16, 'holdout': 64}
_SUFFIX, _MARK = '-smoke', 'made-by-smoke'


def smoke_config(config: ConfigDict) -> ConfigDict:
  """Returns the configuration of the rehearsal of a run."""
  changed = config.copy_and_resolve_references()
  changed.update({k: min(config[k], most) for k, most in LARGEST.items()})
  changed.update(VALUES)
  return changed


def smoke_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder that replaces a folder in a rehearsal."""
  path = pathlib.Path(folder)
  return path.with_name(path.name + _SUFFIX)


def run_folder(folder: pathlib.Path) -> pathlib.Path:
  """Returns the folder whose rehearsal is in a folder."""
  return folder.with_name(folder.name.removesuffix(_SUFFIX))


def empty_smoke_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """Makes the folder of a rehearsal, without the files of the last one.

  Args:
    folder: Folder of the run itself.

  Returns:
    The result of `smoke_folder`.

  Raises:
    InvalidError: If that folder exists, and not because of a rehearsal.
  """
  path = smoke_folder(folder)
  if path.exists() and not (path / _MARK).exists():
    raise InvalidError(
      f'--smoke replaces the folder {path}, but this folder is not from an'
      ' earlier --smoke. Move it away, or use another --workdir.'
    )
  shutil.rmtree(path, ignore_errors=True)
  path.mkdir(parents=True)
  (path / _MARK).touch()
  return path
