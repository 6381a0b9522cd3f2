"""Reads photographs from array_record files of tensorflow-datasets.

A file beside the records keeps the class and the orientation of each
photograph, found by decoding all of them once.
"""

import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import InvalidError, MissingError
from experiments.data import index_file
from experiments.data.photo_index import Report, damage_message, quiet
from experiments.data.photo_pipeline import Photos, PhotoSet
from experiments.data.photographs import BadImageError, inspect
from experiments.data.prefetch import cpu_count, map_bounded
from mq_jax.files import content_digest

NAME = 'mq_jax_records.npz'
SPLITS = ('train', 'validation')
_CHUNK = 16  # Photographs per task.
_COLUMNS = ('places', 'labels', 'orientations')


class _Source(NamedTuple):
  """The records of a split.

  Attributes:
    rows: Records, each with 'file_name', 'image' (encoded) and 'label'.
    classes: Names of the classes.
  """

  rows: Any
  classes: tuple[str, ...]


def _open(folder: Path) -> dict[str, _Source]:
  # The import is slow, and most data sets do not need it.
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
    classes = tuple(builder.info.features['label'].names)
    return {
      split: _Source(
        builder.as_data_source(
          split=split, decoders={'image': tfds.decode.SkipDecoding()}
        ),
        classes,
      )
      for split in SPLITS
    }
  except Exception as error:  # The readers have no common base class.
    raise InvalidError(
      f'{folder} is not a complete set in array_record files ({error}). Remove'
      ' the folder and prepare the set again.'
    ) from error


def index_records(
  folder: Path,
  command: str,
  *,
  skip_damaged: bool = False,
  checksums: Mapping[str, int] | None = None,
  report: Report = quiet,
) -> dict[str, int]:
  """Decodes all photographs once, and writes the file beside them.

  Args:
    folder: Folder of a version of the set.
    command: Command that prepares the set, for messages.
    skip_damaged: Leave damaged photographs out instead of raising an error.
    checksums: CRC-32 of each photograph, by its name; None checks none.
    report: Function `(text, total) -> advance`.

  Returns:
    The number of photographs of each split.

  Raises:
    InvalidError: If photographs are damaged.
    OSError: If a photograph was not read back as it was written.
  """
  arrays: dict[str, Any] = {}
  damaged: dict[str, str] = {}
  workers = cpu_count()
  for split, (rows, _) in _open(folder).items():

    def inspect_rows(places: range, rows: Any = rows) -> list[Any]:
      return [_inspect_row(rows[i], checksums) for i in places]

    size = len(rows)
    labels, orientations = np.empty(size, np.int32), np.zeros(size, np.uint8)
    names: list[str] = []
    chunks = [range(size)[i:][:_CHUNK] for i in range(0, size, _CHUNK)]
    advance = report(f'inspecting {split}', size)
    with ThreadPoolExecutor(workers) as pool:
      found = map_bounded(pool, inspect_rows, chunks, 4 * workers)
      for places, results in zip(chunks, found, strict=True):
        for i, (name, label, result) in zip(places, results, strict=True):
          labels[i] = label
          names.append(name)
          if isinstance(result, str):
            damaged[f'{split}/{name}'] = result
          else:
            orientations[i] = result
        advance(len(places))
    # The order of class folders, in which the batches are the same.
    order = np.lexsort((np.array(names), labels))
    arrays |= {
      f'{split}_places': order,
      f'{split}_labels': labels[order],
      f'{split}_orientations': orientations[order],
    }
  if damaged and not skip_damaged:
    raise InvalidError(damage_message(folder, damaged, command))
  index_file.write(
    folder / NAME, arrays, content_digest(arrays, _shards(folder))
  )
  return {
    split: int((arrays[f'{split}_orientations'] > 0).sum()) for split in SPLITS
  }


def _inspect_row(
  row: Mapping[str, Any], checksums: Mapping[str, int] | None
) -> tuple[str, int, int | str]:
  """Returns name, label, and the orientation or what is wrong."""
  name, content = row['file_name'].decode(), row['image']
  if checksums is not None and checksums.get(name) != zlib.crc32(content):
    raise OSError(
      f'{name} was not read back as it was written. Check the disk and run this'
      ' command again.'
    )
  try:
    return name, int(row['label']), inspect(content).orientation
  except BadImageError as error:
    return name, int(row['label']), str(error)


def _shards(folder: Path) -> list[tuple[str, int]]:
  """Returns names and sizes of the files of records."""
  paths = sorted(folder.glob('*.array_record*'))
  return [(path.name, path.stat().st_size) for path in paths]


def read_records(folder: Path, command: str) -> PhotoSet:
  """Reads the set in a folder.

  Args:
    folder: Folder of a version of the set.
    command: Command that inspects the set, for messages.

  Raises:
    MissingError: If the set was not inspected, or has changed since.
    InvalidError: If the set is not complete.
  """
  arrays = _read_index(folder)
  if arrays is None:
    raise MissingError(
      f'The photographs in {folder} are not inspected yet, or were changed. Run'
      f'\n  {command}\nonce, which decodes each of them.'
    )
  sources = _open(folder)
  train, test = (
    _photos(
      folder / split,
      sources[split].rows,
      *(arrays[f'{split}_{column}'] for column in _COLUMNS),
    )
    for split in SPLITS
  )
  return PhotoSet(sources['train'].classes, train, test, str(folder))


def _photos(
  name: Path,
  rows: Any,
  places: np.ndarray,
  labels: np.ndarray,
  orientations: np.ndarray,
) -> Photos:
  kept = orientations > 0
  places = places[kept]
  return Photos(
    lambda i: rows[places[i]]['image'],
    lambda i: f'Record {places[i]} of {name}',
    labels[kept],
    orientations[kept],
  )


def _read_index(folder: Path) -> dict[str, np.ndarray] | None:
  """Reads the file beside the records; None if it does not belong to them."""
  content = index_file.read(folder / NAME)
  if content is None:
    return None
  arrays, digest = content
  return arrays if digest == content_digest(arrays, _shards(folder)) else None
