"""Lists the photographs of a folder: train/CLASS/* and val/CLASS/*."""

import collections
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.common.console import counted
from experiments.common.errors import InvalidError, MissingError

TRAIN, TESTS = 'train', ('val', 'test')
# Suffixes of photographs; Pillow must be able to read the format.
SUFFIXES = {
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.gif', '.bmp'),
  *('.tif', '.tiff', '.ppm', '.pgm', '.avif', '.jp2'),
}
# Links to folders and to missing files, beside the suffixes.
_LINK = 'links'
_SHOWN = 5  # Names of files or classes in a message.


class File(NamedTuple):
  """A photograph on disk.

  Attributes:
    path: Path below the folder, with '/'.
    label: Number of its class.
    size: Number of bytes.
    modified: Time of the last change in nanoseconds.
  """

  path: str
  label: int
  size: int
  modified: int


class Folder(NamedTuple):
  """The photographs of a folder, sorted by class and path in each split.

  Attributes:
    root: The folder.
    classes: Names of the classes, sorted.
    train: Files to train on.
    test: Files to test on; empty if there is no folder for them.
    ignored: Number of files of each suffix that are not photographs, and of
      links to folders and to missing files.
  """

  root: Path
  classes: tuple[str, ...]
  train: tuple[File, ...]
  test: tuple[File, ...]
  ignored: collections.Counter[str]


# `(folder of the test, names of classes) -> class of each file, by name`.
ReadLabels = Callable[[Path, tuple[str, ...]], dict[str, int]]


def list_folder(root: Path, read_labels: ReadLabels | None = None) -> Folder:
  """Lists a folder of photographs.

  Args:
    root: Folder with train/CLASS/* and val/CLASS/* or test/CLASS/*. If it
      contains both val and test, val is the test set.
    read_labels: Function that finds the classes of a test folder without class
      folders; None refuses such a folder.

  Raises:
    MissingError: If the folder, train/ or a class of photographs is missing.
    InvalidError: If the class folders of train and of the test differ, or if
      the name of one is not UTF-8.
  """
  root = root.expanduser()
  if not (root / TRAIN).is_dir():
    raise MissingError(
      f'{root} contains no folder {TRAIN}. Give a folder that has'
      f' {TRAIN}/CLASS/* and {TESTS[0]}/CLASS/*, one folder per class.'
    )
  classes = _class_names(root / TRAIN)
  if len(classes) < 2:
    raise InvalidError(
      f'{root / TRAIN} contains {counted(len(classes), "class folder")}. It'
      ' must have at least two, each with the photographs of one class.'
    )
  ignored: collections.Counter[str] = collections.Counter()
  train = _files_of_classes(root, TRAIN, classes, ignored)
  check_classes(root / TRAIN, dict(enumerate(classes)), train, 'Add some')
  test: tuple[File, ...] = ()
  for name in TESTS:
    if (root / name).is_dir():
      test = _list_test(root, name, classes, ignored, read_labels)
      break
  return Folder(root, classes, train, test, ignored)


def _list_test(
  root: Path,
  name: str,
  classes: tuple[str, ...],
  ignored: collections.Counter[str],
  read_labels: ReadLabels | None,
) -> tuple[File, ...]:
  """Lists the photographs of a test folder."""
  found = _class_names(root / name)
  if not found and read_labels is not None:
    labels = read_labels(root / name, classes)
    files = _files(root, name, 0, ignored)
    labelled = (f._replace(label=_label_of(f, labels, root)) for f in files)
    return tuple(sorted(labelled, key=lambda file: (file.label, file.path)))
  if found != classes:
    missing = sorted(set(classes) - set(found))
    extra = sorted(set(found) - set(classes))
    parts = [f'lacks {_some(missing)}'] * bool(missing)
    parts += [f'also has {_some(extra)}'] * bool(extra)
    raise InvalidError(
      f'{root / name} must have the class folders of {root / TRAIN}, but it'
      f' {" and ".join(parts)}. Rename, add or remove folders, or remove'
      f' {root / name} and set config.holdout to the number of training'
      ' photographs to test on.'
    )
  test = _files_of_classes(root, name, classes, ignored)
  if not test:
    raise MissingError(
      f'{root / name} has no photographs. Add some, or remove it and set'
      ' config.holdout to the number of training photographs to test on.'
    )
  check_classes(root / name, dict(enumerate(classes)), test, 'Add some')
  return test


def check_classes(
  folder: Path, classes: Mapping[int, str], files: Iterable[File], remedy: str
) -> None:
  """Raises `MissingError` if a class has no photographs in a folder.

  Args:
    folder: Folder of the class folders.
    classes: Name of each class by its number.
    files: Photographs of the folder.
    remedy: What to do, for the message.
  """
  found = {file.label for file in files}
  if empty := [name for i, name in classes.items() if i not in found]:
    raise MissingError(
      f'{folder} has no photographs of {_some(empty)}. {remedy}, or remove the'
      ' folders of these classes.'
    )


def _label_of(file: File, labels: dict[str, int], root: Path) -> int:
  name = file.path.rpartition('/')[2]
  # The lists name files with and without their suffix.
  for key in (name, name.rpartition('.')[0]):
    if key in labels:
      return labels[key]
  raise InvalidError(
    f'The list of test images has no class for {root / file.path}. Remove the'
    ' file, or use the complete list.'
  )


def _class_names(folder: Path) -> tuple[str, ...]:
  """Returns the sorted names of the class folders."""
  with os.scandir(folder) as entries:
    names = [
      e.name for e in entries if _is(e.is_dir) and not _is_hidden(e.name)
    ]
  for name in names:
    try:
      name.encode()
    except UnicodeEncodeError as error:
      raise InvalidError(
        f'The name of the class folder {name!r} in {folder} is not UTF-8.'
        ' Rename the folder.'
      ) from error
  return tuple(sorted(names))


def _files_of_classes(
  root: Path,
  split: str,
  classes: Sequence[str],
  ignored: collections.Counter[str],
) -> tuple[File, ...]:
  return tuple(
    file
    for label, name in enumerate(classes)
    for file in _files(root, f'{split}/{name}', label, ignored)
  )


def _files(
  root: Path, folder: str, label: int, ignored: collections.Counter[str]
) -> list[File]:
  """Lists the photographs in a folder and its subfolders, sorted by path."""
  files = []
  for path, entry in _walk(root, folder):
    suffix = os.path.splitext(entry.name)[1]
    if not _is(entry.is_file):
      ignored[_LINK if entry.is_symlink() else suffix or entry.name] += 1
      continue
    if suffix.lower() not in SUFFIXES:
      ignored[suffix or entry.name] += 1
      continue
    status = entry.stat()
    files.append(File(path, label, status.st_size, status.st_mtime_ns))
  return sorted(files)


def _walk(root: Path, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
  with os.scandir(root / folder) as entries:
    for entry in entries:
      if _is_hidden(entry.name):
        continue
      path = f'{folder}/{entry.name}'
      # A link to a folder could lead back to this folder.
      if entry.is_dir(follow_symlinks=False):
        yield from _walk(root, path)
      else:
        yield path, entry


def _is(check: Callable[[], bool]) -> bool:
  """Returns what an entry is, and False for a link that leads to itself.

  Args:
    check: Method `is_file` or `is_dir` of the entry.
  """
  try:
    return check()
  except OSError as error:
    if error.errno == errno.ELOOP:
      return False
    raise


def _is_hidden(name: str) -> bool:
  # Windows has no leading dot.
  return bool(re.match(r'\.|__MACOSX$|Thumbs\.db$|desktop\.ini$', name))


def _some(names: Iterable[str]) -> str:
  """Returns the first names, and the number of the others."""
  names = list(names)
  text = ', '.join(names[:_SHOWN])
  more = len(names) - _SHOWN
  return f'{text} and {more:,} more' if more > 0 else text
