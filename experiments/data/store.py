"""Finds prepared CIFAR sets and reads them without TensorFlow.

The sets are stored as tensorflow-datasets prepares them and are read through
its data source. A file in the same folder keeps the decoded pixels, so that
later starts decode nothing.
"""

import importlib.util
import json
import logging
import os
import shlex
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError, MissingError
from mq_jax.files import open_atomic

CACHE = 'mq_jax_pixels.npz'


class Pixels(NamedTuple):
  """The arrays of a prepared set.

  Attributes:
    train_images: uint8 of shape (N, 32, 32, 3).
    train_labels: int32 of shape (N,).
    test_images: uint8 of shape (M, 32, 32, 3).
    test_labels: int32 of shape (M,).
    names: Names of the classes, strings.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  names: np.ndarray


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
  """Returns the folder of prepared sets: `data_dir`, or else the default."""
  folder = data_dir or os.environ.get('TFDS_DATA_DIR')
  return Path(folder or '~/tensorflow_datasets').expanduser()


def find_prepared(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> Path:
  """Finds the folder of the newest complete version of a prepared set.

  Args:
    name: 'cifar10' or 'cifar100'.
    data_dir: Folder of prepared sets, as for `datasets.load`.

  Returns:
    The folder, such as ~/tensorflow_datasets/cifar10/3.0.2.

  Raises:
    MissingError: If there is no such folder; the message has the commands that
      prepare the set.
  """
  root = resolve_data_dir(data_dir)
  if not (problems := _problems(name, root)):
    _download(name, root)
    problems = _problems(name, root)
  for folder, problem in problems.items():
    if not problem:
      return folder
  problem = next(iter(problems.values()), '')
  archive = _archive(name)
  raise MissingError(
    f'{name} is not in {root}. '
    + (f'{problem}. Remove that folder. ' if problem else '')
    + f'To prepare the set there, run\n  curl -LO {archive}\n'
    f'  python -m experiments.prepare_data --source {archive.split("/")[-1]}'
    f' --data_dir {shlex.quote(str(root))}\n'
    'If the set is already prepared in another folder, give that folder as'
    ' data_dir or in $TFDS_DATA_DIR.'
  )


def _archive(name: str) -> str:
  """Returns the address of the official archive of a set."""
  number = name.removeprefix('cifar')
  return f'https://www.cs.toronto.edu/~kriz/cifar-{number}-binary.tar.gz'


def _problems(name: str, root: Path) -> dict[Path, str]:
  """Returns what each version lacks, '' if it is complete; the newest first."""
  versions = {}
  for info in root.glob(f'{name}/*/dataset_info.json'):
    numbers = info.parent.name.split('.')
    # An interrupted preparation leaves others, such as incomplete.XYZ_3.0.2.
    if all(number.isdecimal() for number in numbers):
      versions[tuple(map(int, numbers))] = info.parent
  newest_first = [
    folder for _, folder in sorted(versions.items(), reverse=True)
  ]
  return {folder: _problem(name, folder) for folder in newest_first}


def _problem(name: str, folder: Path) -> str:
  """Describes why the folder of a version cannot be read; '' if it can."""
  try:
    info = json.loads((folder / 'dataset_info.json').read_text('utf-8'))
    shards = {s['name']: len(s['shardLengths']) for s in info['splits']}
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f'{folder}/dataset_info.json cannot be read ({error})'
  form = info.get('fileFormat', 'tfrecord')
  if form != 'array_record':
    return f'{folder} is stored as {form}, which only TensorFlow can read'
  for split in ('train', 'test'):
    paths = list(folder.glob(f'{name}-{split}.array_record*'))
    if not shards.get(split) or len(paths) != shards[split]:
      return f'{folder} lacks files of its {split} split'
  return ''


def _download(name: str, root: Path) -> None:
  """Downloads a set with tensorflow-datasets, if that can succeed."""
  # Without TensorFlow the preparation fails at its end, and without a network
  # the download retries for minutes.
  if importlib.util.find_spec('tensorflow') is None or not _answers(name):
    return
  import tensorflow_datasets as tfds

  logging.info('Downloading %s into %s.', name, root)
  try:
    builder = tfds.builder(name, data_dir=root, file_format='array_record')
    builder.download_and_prepare()
  except Exception as error:  # tensorflow-datasets has no common base class.
    logging.warning('The download of %s failed: %s', name, error)


def _answers(name: str, seconds: float = 5.0) -> bool:
  """Checks that the site of a set answers within some seconds."""
  answers: list[bool] = []

  def ask() -> None:
    request = urllib.request.Request(_archive(name), method='HEAD')
    try:
      with urllib.request.urlopen(request, timeout=seconds) as response:
        answers.append(response.status == 200)
    except OSError:
      pass

  # In a thread, because no timeout covers the lookup of the host name.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(seconds)
  return answers == [True]


def read_prepared(
  folder: Path, advance: Callable[[int], object] = lambda n: None
) -> Pixels:
  """Reads a prepared set from its decoded pixels, which are written if needed.

  Args:
    folder: Folder that `find_prepared` returned.
    advance: Function that is called with the number of images decoded since the
      last call.

  Returns:
    The arrays, each split sorted by the `id` of its images.

  Raises:
    InvalidError: If the prepared files are damaged.
  """
  try:
    state = _fingerprint(folder)
  except OSError as error:
    raise InvalidError(
      f'{folder} cannot be read ({error}). Remove it and prepare the set again.'
    ) from error
  pixels = _read_cache(folder / CACHE, state)
  if pixels is None:
    logging.info('Decoding %s, once.', folder)
    pixels = _decode(folder, advance)
    _write_cache(folder / CACHE, state, pixels)
  return pixels


def _fingerprint(folder: Path) -> str:
  """Returns a text that identifies the content of the files, in about 0.3 s."""
  paths = [*sorted(folder.glob('*.array_record*')), folder / 'features.json']
  return ' '.join(map(files.sha256, paths))


def _read_cache(path: Path, state: str) -> Pixels | None:
  """Reads decoded pixels; returns None if damaged or from other files."""
  try:
    # Reading also verifies the checksums of the zip archive.
    with np.load(path, allow_pickle=False) as arrays:
      if str(arrays['fingerprint']) != state:
        return None
      return Pixels(*(arrays[field] for field in Pixels._fields))
  except Exception:  # Damaged archives raise errors of many classes.
    return None


def _write_cache(path: Path, state: str, pixels: Pixels) -> None:
  """Writes decoded pixels; logs a warning if the folder is not writable."""
  try:
    files.remove_leftovers(path.parent, mine=False)
    with open_atomic(path) as file:
      np.savez(file, fingerprint=np.array(state), **pixels._asdict())
  except OSError as error:
    logging.warning(
      '%s cannot be written (%s). Every start has to decode the images again.',
      path,
      error,
    )


def _decode(folder: Path, advance: Callable[[int], object]) -> Pixels:
  """Decodes all images of a prepared set."""
  # A start from decoded pixels must not wait for this import.
  import tensorflow_datasets as tfds

  def drop(record: logging.LogRecord) -> bool:
    # One message recommends OpenCV, which would save seconds only once.
    return 'OpenCV' not in record.getMessage()

  absl = logging.getLogger('absl')
  absl.addFilter(drop)
  try:
    builder = tfds.builder_from_directory(folder)
    names = np.array(builder.info.features['label'].names)
    train, test = (
      _decode_split(builder.as_data_source(split=split), advance)
      for split in ('train', 'test')
    )
    pixels = Pixels(*train, *test, names)
    for labels in (pixels.train_labels, pixels.test_labels):
      if not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f'it has labels outside of 0 to {len(names) - 1}')
  except Exception as error:  # The readers have no common base class.
    raise InvalidError(
      f'{folder} is damaged ({error}). Remove the folder and prepare the set'
      ' again.'
    ) from error
  finally:
    absl.removeFilter(drop)
  return pixels


def _decode_split(
  source: Any, advance: Callable[[int], object]
) -> tuple[np.ndarray, np.ndarray]:
  """Decodes the images and labels of one data source."""
  images = np.empty((len(source), 32, 32, 3), np.uint8)
  labels = np.empty(len(source), np.int32)
  ids = []
  for i in range(len(source)):
    row = source[i]
    images[i], labels[i] = row['image'], row['label']
    ids.append(row['id'])
    advance(1)
  # tensorflow-datasets shuffled the images when it wrote them.
  order = np.argsort(np.array(ids), kind='stable')
  return images[order], labels[order]
