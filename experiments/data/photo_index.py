"""The index of a folder: which photographs were decoded once, without error.

The index is a file in the folder. It is a memory of inspections, by path, size
and time of change: photographs that it does not contain are inspected.
"""

import collections
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import processes
from experiments.common.console import counted
from experiments.common.errors import InvalidError, MissingError
from experiments.data import index_file
from experiments.data.photo_folders import File, Folder, check_classes
from experiments.data.photographs import (
  KINDS,
  BadImageError,
  Inspection,
  inspect,
)
from experiments.data.prefetch import cpu_count, map_bounded
from mq_jax.files import content_digest

NAME = 'mq_jax_index.npz'
# Most photographs that a start of training inspects itself.
LARGEST_UNPREPARED = 20_000
_VERSION = 2
_SHOWN = 10
_CHUNK = 16  # Photographs per task.

Advance = Callable[[int], object]
Report = Callable[[str, int], Advance]


class Entry(NamedTuple):
  """The entry of a file in the index.

  Attributes:
    size: Number of bytes.
    modified: Time of the last change in nanoseconds.
    orientation: Value of EXIF's tag, 1 to 8; 0 for a file to leave out.
    kinds: Conversions that decoding applies, bit i for `KINDS[i]`.
  """

  size: int
  modified: int
  orientation: int
  kinds: int


Index = dict[str, Entry]


class Indexed(NamedTuple):
  """The photographs of a folder that can be decoded.

  Attributes:
    folder: The folder, without the files that the index leaves out.
    entries: Entry of each file, also of those left out.
  """

  folder: Folder
  entries: Index


def quiet(text: str, total: int) -> Advance:
  """Reports nothing."""
  del text, total
  return lambda n: None


def index_folder(
  folder: Folder,
  command: str,
  *,
  skip_damaged: bool = False,
  most: int | None = None,
  report: Report = quiet,
) -> Indexed:
  """Inspects the files of a folder that its index does not know.

  Args:
    folder: Folder to inspect.
    command: Command that prepares the folder, for messages.
    skip_damaged: Leave damaged files out instead of raising an error.
    most: Most files to inspect; None for any number.
    report: Function `(text, total) -> advance`.

  Raises:
    MissingError: If more than `most` files are to be inspected, or all
      photographs of a class are left out.
    InvalidError: If files are damaged, or cannot be read at all.
  """
  path = folder.root / NAME
  old = read_index(path)
  listed = (*folder.train, *folder.test)
  known = {f.path: old[f.path] for f in listed if _is_known(f, old)}
  index = {
    name: entry
    for name, entry in known.items()
    # Another version of Pillow may decode what was left out.
    if entry.orientation or not skip_damaged
  }
  new = [file for file in listed if file.path not in index]
  if most is not None and len(new) > most:
    kind = 'not inspected yet' if not old else 'new or changed'
    raise MissingError(
      f'{len(new):,} photographs in {folder.root} are {kind}. Run this once; it'
      f' decodes every photograph:\n  {command}'
    )
  damaged: dict[str, Exception] = {}
  if new:
    logging.info('Inspecting %d photographs in %s.', len(new), folder.root)
    try:
      damaged = _inspect(
        folder.root, new, index, report('inspecting', len(new))
      )
    except BaseException:
      # The next start resumes from what was inspected before Ctrl-C.
      _write(path, known | index)
      raise
  unreadable = {
    name: error
    for name, error in damaged.items()
    if not isinstance(error, BadImageError)
  }
  if skip_damaged:
    index |= {
      file.path: Entry(file.size, file.modified, 0, 0)
      for file in new
      if file.path in damaged and file.path not in unreadable
    }
  if index != old:
    _write(path, index)
  if unreadable:
    raise InvalidError(
      f'{counted(len(unreadable), "file")} cannot be read:\n'
      f'{_listing(folder.root, unreadable)}\n'
      'Make them readable, or remove them.'
    )
  if damaged and not skip_damaged:
    raise InvalidError(damage_message(folder.root, damaged, command))
  return Indexed(_without_left_out(folder, index), index)


def assumed_folder(folder: Folder) -> Indexed:
  """Returns a folder whose files that its index does not know are complete.

  It inspects nothing and writes nothing.
  """
  index = read_index(folder.root / NAME)
  entries = {
    f.path: index[f.path]
    if _is_known(f, index)
    else Entry(f.size, f.modified, 1, 0)
    for f in (*folder.train, *folder.test)
  }
  return Indexed(_without_left_out(folder, entries), entries)


def _is_known(file: File, index: Index) -> bool:
  entry = index.get(file.path)
  return entry is not None and entry[:2] == (file.size, file.modified)


def _inspect(
  root: Path, new: Sequence[File], index: Index, advance: Advance
) -> dict[str, Exception]:
  """Adds the entries of files; returns what is wrong with the others."""
  damaged = {}

  def inspect_all(
    chunk: Sequence[File],
  ) -> list[tuple[File, Inspection | Exception]]:
    return [(file, _inspect_file(root / file.path)) for file in chunk]

  chunks = [new[i : i + _CHUNK] for i in range(0, len(new), _CHUNK)]
  workers = cpu_count()
  with ThreadPoolExecutor(workers) as pool:
    for found in map_bounded(pool, inspect_all, chunks, 4 * workers):
      for file, result in found:
        if isinstance(result, Exception):
          damaged[file.path] = result
        else:
          index[file.path] = Entry(
            file.size, file.modified, result.orientation, _bits(result.kinds)
          )
      advance(len(found))
  return damaged


def _inspect_file(path: Path) -> Inspection | Exception:
  try:
    return inspect(path.read_bytes())
  except (BadImageError, PermissionError, FileNotFoundError) as error:
    return error


def _bits(kinds: Iterable[str]) -> int:
  return sum(1 << KINDS.index(kind) for kind in kinds)


def _without_left_out(folder: Folder, index: Index) -> Folder:
  """Returns the folder without files that the index leaves out."""

  def kept(split: Sequence[File]) -> tuple[File, ...]:
    files = tuple(file for file in split if index[file.path].orientation)
    if files != split:
      had = {file.label for file in split}
      check_classes(
        folder.root / split[0].path.split('/')[0],
        {label: folder.classes[label] for label in had},
        files,
        'Replace the damaged ones, which are left out',
      )
    return files

  return folder._replace(train=kept(folder.train), test=kept(folder.test))


def damage_message(
  root: Path, damaged: Mapping[str, object], command: str
) -> str:
  """Returns the message about damaged photographs, with both remedies.

  Args:
    root: Folder of the photographs.
    damaged: What is wrong, by the path below the folder.
    command: Command that prepares the folder.
  """
  are = 'file is not a complete image'
  if len(damaged) > 1:
    are = 'files are not complete images'
  return (
    f'{len(damaged):,} {are}:\n{_listing(root, damaged)}\n'
    'Remove or replace them, or run\n'
    f'  {command} --skip_damaged\n'
    'which leaves them out.'
  )


def _listing(root: Path, damaged: Mapping[str, object]) -> str:
  """Returns the first files, a line each, and the number of the others."""
  lines = [
    f'  {root / name}: {text}'
    for name, text in sorted(damaged.items())[:_SHOWN]
  ]
  if (more := len(damaged) - _SHOWN) > 0:
    lines.append(f'  and {more:,} more')
  return '\n'.join(lines)


def prepare_command(dataset: str, root: Path) -> str:
  """Returns the command that prepares a folder."""
  return (
    f'python -m experiments.prepare_data --dataset {dataset} --source'
    f' {shlex.quote(str(root))}'
  )


def count_kinds(indexed: Indexed) -> dict[str, int]:
  """Returns the number of photographs that each conversion applies to."""
  counts: collections.Counter[str] = collections.Counter()
  for file in (*indexed.folder.train, *indexed.folder.test):
    bits = indexed.entries[file.path].kinds
    counts.update(kind for i, kind in enumerate(KINDS) if bits >> i & 1)
  return {kind: counts[kind] for kind in KINDS if counts[kind]}


def read_index(path: Path) -> Index:
  """Reads an index; returns {} if it is missing, damaged or of other code."""
  content = index_file.read(path)
  if content is None:
    return {}
  arrays, digest = content
  if digest != content_digest(arrays, _VERSION):
    index_file.warn_of_damage(path, 'its digest does not match its content')
    return {}
  paths = os.fsdecode(arrays['paths'].tobytes())
  names = paths.split('\0') if paths else []
  columns = [arrays[name].tolist() for name in Entry._fields]
  rows = zip(*columns, strict=True)
  return dict(zip(names, (Entry(*row) for row in rows), strict=True))


def _write(path: Path, index: Index) -> None:
  """Writes an index; logs a warning if the folder is not writable.

  If several processes train, the first one writes.
  """
  if not processes.is_first():
    return
  names = sorted(index)
  paths = os.fsencode('\0'.join(names))
  arrays: dict[str, Any] = {
    'paths': np.array(memoryview(paths), np.uint8),
    **{
      field: np.array([index[name][i] for name in names], np.int64)
      for i, field in enumerate(Entry._fields)
    },
  }
  try:
    index_file.write(path, arrays, content_digest(arrays, _VERSION))
  except OSError as error:
    logging.warning(
      '%s cannot be written (%s). Every start has to inspect the photographs'
      ' again.',
      path,
      error,
    )
