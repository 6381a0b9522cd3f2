"""Fingerprints of configurations, by which runs of one setting are found."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.build import options
from experiments.build.key import as_declared
from experiments.build.options import OPTIONS
from experiments.build.schema import KEYS, unread_keys


def identity(config: Mapping[str, Any], *, without: Iterable[str] = ()) -> str:
  """Returns a text that two runs share if they differ in their seeds alone.

  Args:
    config: The whole configuration; it may come from a log that is older than
      some keys, which then have their defaults.
    without: Further keys that do not count.

  Returns:
    JSON without the keys that change no result, or that such a run does not
    read. A base model counts by the name of its file.
  """
  complete = as_declared(KEYS, config)
  for field in OPTIONS:
    complete[field] = options.complete(field, complete)
  excluded = {name for name, key in KEYS.items() if not key.identity}
  excluded |= {*unread_keys(complete), *without}
  kept = {
    name: value
    for name, value in without_places(complete).items()
    if name not in excluded
  }
  return json.dumps(kept, sort_keys=True)


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the keys that a resumed run must share with the earlier run.

  Files may move, because their locations change no result: folders are left
  out, and files count by their names.

  Args:
    config: Keys and values; keys may be missing.
  """
  return {
    name: value
    for name, value in without_folders(config).items()
    if not (name in KEYS and KEYS[name].folder)
  }


def without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the configuration for the ledger: names of files and folders.

  Args:
    config: Keys and values; keys may be missing.

  Returns:
    The configuration, with each path replaced by its last part.
  """
  paths = {name for name, key in KEYS.items() if key.file or key.folder}
  return {
    name: pathlib.PurePath(value).name if name in paths else value
    for name, value in config.items()
  }
