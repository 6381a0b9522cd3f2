"""Reads the class of each validation image of ImageNet (ILSVRC 2012).

The validation images are published in one flat folder. Several lists of their
classes are in use; these are read, in this order of preference:

- LOC_val_solution.csv of Kaggle: lines 'NAME,WNID …' below a heading;
- val.txt: lines 'NAME WNID', or 'NAME NUMBER' as Caffe has it, with numbers
  from 0 in the order of the sorted WNIDs;
- imagenet_2012_validation_synset_labels.txt of TensorFlow: one WNID per line,
  in the order of the images;
- ILSVRC2012_devkit_t12.tar.gz, or the folder in it. Its ground truth has
  numbers from 1 in an order that only its meta.mat defines.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.common.errors import InvalidError, MissingError
from experiments.data.archives import open_archive

DEVKIT = 'ILSVRC2012_devkit_t12'
TRUTH, META = 'ILSVRC2012_validation_ground_truth.txt', 'meta.mat'
NAME = 'ILSVRC2012_val_{:08d}'
Labels = dict[str, int]


def find_labels(folders: Sequence[Path], classes: tuple[str, ...]) -> Labels:
  """Finds a list of classes and reads it.

  Args:
    folders: Folders to search, in this order.
    classes: WNIDs, sorted.

  Returns:
    Number of the class of each image, by the name of the image. Some lists name
    images without their suffix.

  Raises:
    MissingError: If there is no list.
    InvalidError: If a line of the list does not name a class.
  """
  for name, read in _LISTS.items():
    for folder in folders:
      if (folder / name).exists():
        return _numbered(folder / name, read(folder / name), classes)
  bare = [folder / TRUTH for folder in folders if (folder / TRUTH).exists()]
  hint = (
    f' {bare[0]} alone does not suffice, because {META} of the same development'
    ' kit defines its numbers.'
    if bare
    else ''
  )
  raise MissingError(
    f'{folders[0]} has neither class folders nor a list of the classes of its'
    f' images.{hint} Put one of {", ".join(_LISTS)} into {folders[-1]}.'
  )


def _numbered(
  path: Path, found: dict[str, str], classes: tuple[str, ...]
) -> Labels:
  numbers = {wnid: number for number, wnid in enumerate(classes)}
  numbers |= {str(number): number for number in range(len(classes))}
  for name, value in found.items():
    if value not in numbers:
      raise InvalidError(
        f'{path} gives {name} the class {value!r}, which is not one of the'
        f' {len(classes)} classes. Use a complete list.'
      )
  return {name: numbers[value] for name, value in found.items()}


def _read_kaggle(path: Path) -> dict[str, str]:
  return _pairs(path, _lines(path)[1:], re.compile(r'([^,]+),\s*(\S+).*'))


def _read_pairs(path: Path) -> dict[str, str]:
  return _pairs(path, _lines(path), re.compile(r'(\S+)\s+(\S+)'))


def _pairs(
  path: Path, lines: Sequence[str], pattern: re.Pattern[str]
) -> dict[str, str]:
  found = {}
  for line in lines:
    match = pattern.fullmatch(line)
    if match is None:
      raise InvalidError(f'{path} has the line {line[:80]!r}. {_COMPLETE}')
    found[match[1]] = match[2]
  return found


def _read_ordered(path: Path) -> dict[str, str]:
  return _in_order(_lines(path))


def _in_order(values: Sequence[str]) -> dict[str, str]:
  return {NAME.format(i + 1): value for i, value in enumerate(values)}


def _read_devkit_archive(path: Path) -> dict[str, str]:
  with open_archive(path, _COMPLETE) as files:
    missing = {TRUTH, META} - set(files)
    if missing:
      raise InvalidError(f'{path} lacks {", ".join(missing)}. {_COMPLETE}')
    return _from_devkit(path, files[TRUTH].read(), files[META].read())


def _read_devkit(path: Path) -> dict[str, str]:
  content = [(path / 'data' / name) for name in (TRUTH, META)]
  for file in content:
    if not file.is_file():
      raise MissingError(f'{file} is missing. {_COMPLETE}')
  return _from_devkit(path, *(file.read_bytes() for file in content))


def _from_devkit(path: Path, truth: bytes, meta: bytes) -> dict[str, str]:
  # The import is slow, and the other lists do not need it.
  from scipy import io as scipy_io

  try:
    synsets = scipy_io.loadmat(io.BytesIO(meta), squeeze_me=True)['synsets']
    pairs = zip(synsets['ILSVRC2012_ID'], synsets['WNID'], strict=True)
    wnids = {int(number): str(wnid) for number, wnid in pairs}
    numbers = [int(number) for number in truth.split()]
    return _in_order([wnids[number] for number in numbers])
  except Exception as error:  # scipy's reader has no common base class.
    raise InvalidError(f'{path} is damaged: {error}. {_COMPLETE}') from error


def _lines(path: Path) -> list[str]:
  try:
    text = path.read_text('utf-8')
  except ValueError as error:
    raise InvalidError(f'{path} is not a text file. {_COMPLETE}') from error
  return [line.strip() for line in text.splitlines() if line.strip()]


_COMPLETE = 'Download it again.'
_LISTS: dict[str, Callable[[Path], dict[str, str]]] = {
  'LOC_val_solution.csv': _read_kaggle,
  'val.txt': _read_pairs,
  'imagenet_2012_validation_synset_labels.txt': _read_ordered,
  f'{DEVKIT}.tar.gz': _read_devkit_archive,
  DEVKIT: _read_devkit,
}
