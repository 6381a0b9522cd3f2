"""Reads and writes arrays of an index beside a data set, with a digest."""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import files
from mq_jax.files import open_atomic


class Content(NamedTuple):
  """The content of a file.

  Attributes:
    arrays: Arrays by name.
    digest: Digest that was written with them.
  """

  arrays: dict[str, np.ndarray]
  digest: str


def read(path: Path) -> Content | None:
  """Reads a file; returns None if it is missing or cannot be read.

  The caller compares the digest, which may also cover other files.
  """
  try:
    with np.load(path, allow_pickle=False) as content:
      arrays = {name: content[name] for name in content.files}
    return Content(arrays, str(arrays.pop('digest')))
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    warn_of_damage(path, error)
    return None


def warn_of_damage(path: Path, cause: object) -> None:
  """Logs that a file is not used."""
  logging.warning('%s is not used, since it is damaged: %s', path, cause)


def write(path: Path, arrays: Mapping[str, Any], digest: str) -> None:
  """Writes a file completely or not at all.

  Raises:
    OSError: If the folder is not writable.
  """
  files.remove_leftovers(path.parent, mine=False)
  with open_atomic(path) as file:
    np.savez(file, digest=np.array(digest), **arrays)
