"""The data of a run: CIFAR-10, CIFAR-100, or scikit-learn's digits.

The CIFAR sets lie on disk as tensorflow-datasets prepares them, are read
through its data source without TensorFlow, and decoded once: a copy of the
pixels stands beside the prepared files. From then on a set is an array of
bytes, on the device whole; the epoch's order, crop, flip and normalisation are
functions of (seed, epoch, step) to be called inside jit.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shlex
import threading
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.errors import InvalidError, MissingError

Array = jax.Array
Floats3 = tuple[float, float, float]

ARCHIVE = 'https://www.cs.toronto.edu/~kriz/cifar-{}-binary.tar.gz'
CACHE = 'mq_jax_pixels.npz'
# Mean and standard deviation of the channels, as in the authors' code.
PIXELS: dict[str, tuple[Floats3, Floats3]] = {
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
  'cifar100': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
NAMES = (*PIXELS, 'digits')
# Large numbers, so that these keys meet none that a run folds a step into.
_ORDER, _AUGMENT = 0xDA7A0001, 0xDA7A0002


class Dataset(NamedTuple):
  """One set, in the memory of the host.

  Attributes:
    train_images: uint8 of shape (N, 32, 32, 3).
    train_labels: int32 of shape (N,).
    test_images: uint8 of shape (M, 32, 32, 3).
    test_labels: int32 of shape (M,).
    mean: Of each channel, with pixels in [0, 1].
    std: Standard deviation of each channel, likewise.
    class_names: One a label.
    flip: Whether an image mirrored left to right keeps its label.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  mean: Floats3
  std: Floats3
  class_names: tuple[str, ...]
  flip: bool


class Pixels(NamedTuple):
  """The arrays of a prepared set, as in `Dataset`; `names` is of strings."""

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  names: np.ndarray


class Split(NamedTuple):
  """Images (uint8, (N, H, W, C)) and labels (int32, (N,)) on the device."""

  images: Array
  labels: Array


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
  """Loads a set; at the first time decodes it, which takes 10 to 20 s.

  Where a CIFAR set is missing, it is downloaded by tensorflow-datasets if
  TensorFlow is installed and the set's site answers within 5 s.

  Args:
    name: 'cifar10', 'cifar100' or 'digits'; the latter needs no files.
    data_dir: Where prepared sets lie; default $TFDS_DATA_DIR, then
      ~/tensorflow_datasets.

  Returns:
    The `Dataset`, images in the order of the original files.

  Raises:
    ValueError: If there is no such set, or its prepared files are damaged.
    FileNotFoundError: If the set is not prepared in `data_dir`; the message has
      the commands that prepare it.
  """
  if name not in NAMES:
    raise ValueError(f'The dataset is {name!r}; there are {", ".join(NAMES)}.')
  if name == 'digits':
    return _digits()
  mean, std = PIXELS[name]
  pixels = read_prepared(find_prepared(name, data_dir))
  return Dataset(
    pixels.train_images,
    pixels.train_labels,
    pixels.test_images,
    pixels.test_labels,
    mean,
    std,
    tuple(map(str, pixels.names)),
    flip=True,
  )


def _digits() -> Dataset:
  """1437 + 360 handwritten digits of 8x8 pixels, each pixel drawn as 4x4."""
  # Slow to import, and of no use to the other sets.
  from sklearn import datasets

  images, labels = datasets.load_digits(return_X_y=True)
  grey = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  grey = grey.repeat(4, axis=1).repeat(4, axis=2)
  images = np.repeat(grey[..., None], 3, axis=3)
  labels = labels.astype(np.int32)
  # Every fifth of each class in turn, so that all classes are in the test.
  test = np.zeros(len(labels), bool)
  test[np.argsort(labels, kind='stable')[::5]] = True
  train_images = images[~test]
  mean, std = train_images.mean() / 255, train_images.std() / 255
  return Dataset(
    train_images,
    labels[~test],
    images[test],
    labels[test],
    (float(mean),) * 3,
    (float(std),) * 3,
    tuple('0123456789'),
    flip=False,
  )


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
  """The folder of prepared sets: `data_dir`, or else the default."""
  named = data_dir or os.environ.get('TFDS_DATA_DIR')
  return Path(named or '~/tensorflow_datasets').expanduser()


def find_prepared(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> Path:
  """Finds the folder of the newest whole version of a prepared set.

  Args:
    name: 'cifar10' or 'cifar100'.
    data_dir: As in `load`.

  Returns:
    The folder, such as ~/tensorflow_datasets/cifar10/3.0.2.

  Raises:
    FileNotFoundError: If there is none; the message has the commands that
      prepare it.
  """
  root = resolve_data_dir(data_dir)
  folder, problem = _look_up(name, root)
  if folder is None and not problem:
    _download(name, root)
    folder, problem = _look_up(name, root)
  if folder is None:
    number = name.removeprefix('cifar')
    archive = ARCHIVE.format(number)
    raise MissingError(
      f'{name} is not in {root}. '
      + (f'{problem}; remove that folder. ' if problem else '')
      + f'To prepare the set there, run\n  curl -LO {archive}\n'
      f'  python -m experiments.prepare_data --source {archive.split("/")[-1]}'
      f' --data_dir {shlex.quote(str(root))}\n'
      'or give the folder in which it is prepared already as data_dir, or in'
      ' $TFDS_DATA_DIR.'
    )
  return folder


def _look_up(name: str, root: Path) -> tuple[Path | None, str]:
  """The newest whole version, or None and what is wrong with the newest."""
  versions = {}
  for info in root.glob(f'{name}/*/dataset_info.json'):
    numbers = info.parent.name.split('.')
    # Others are what a stopped tensorflow-datasets leaves: incomplete.XYZ_3.0.2
    if all(number.isdecimal() for number in numbers):
      versions[tuple(map(int, numbers))] = info.parent
  problems = []
  for _, folder in sorted(versions.items(), reverse=True):
    problem = _problem(name, folder)
    if not problem:
      return folder, ''
    problems.append(problem)
  return None, problems[0] if problems else ''


def _problem(name: str, folder: Path) -> str:
  """What keeps a version's folder from being read; empty if nothing."""
  try:
    info = json.loads((folder / 'dataset_info.json').read_text('utf-8'))
    shards = {s['name']: len(s['shardLengths']) for s in info['splits']}
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f'{folder}/dataset_info.json cannot be read ({error})'
  form = info.get('fileFormat', 'tfrecord')
  if form != 'array_record':
    return f'{folder} is stored as {form}, which only TensorFlow reads'
  for split in ('train', 'test'):
    files = list(folder.glob(f'{name}-{split}.array_record*'))
    if not shards.get(split) or len(files) != shards[split]:
      return f'{folder} lacks files of its {split} split'
  return ''


def _download(name: str, root: Path) -> None:
  """Has tensorflow-datasets download a set, where that can succeed."""
  # Without TensorFlow its preparation fails at the end, and without a network
  # it retries for minutes.
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
  """Whether the site of a set answers soon."""
  url = ARCHIVE.format(name.removeprefix('cifar'))
  answers: list[bool] = []

  def ask() -> None:
    request = urllib.request.Request(url, method='HEAD')
    try:
      with urllib.request.urlopen(request, timeout=seconds) as response:
        answers.append(response.status == 200)
    except OSError:
      pass

  # In a thread, because no timeout covers the look-up of the host's name.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(seconds)
  return answers == [True]


def read_prepared(
  folder: Path, advance: Callable[[int], object] = lambda n: None
) -> Pixels:
  """Reads a prepared set from the copy of its pixels, which is made if needed.

  Args:
    folder: As `find_prepared` returns it.
    advance: Is told how many more images are decoded.

  Returns:
    The arrays, each split sorted by the `id` of its images.

  Raises:
    ValueError: If the prepared files are damaged.
  """
  try:
    state = _fingerprint(folder)
  except OSError as error:
    raise InvalidError(f'{folder} cannot be read: {error}.') from error
  pixels = _read_cache(folder / CACHE, state)
  if pixels is None:
    logging.info('Decoding %s, once.', folder)
    pixels = _decode(folder, advance)
    _write_cache(folder / CACHE, state, pixels)
  return pixels


def _fingerprint(folder: Path) -> str:
  """Of the content of the prepared files; 0.3 s, mostly sha256."""
  digest = hashlib.sha256()
  for path in sorted(folder.glob('*.array_record*')):
    with path.open('rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  digest.update((folder / 'features.json').read_bytes())
  return digest.hexdigest()


def _read_cache(path: Path, state: str) -> Pixels | None:
  """Reads the copy; None unless it is whole and of this set."""
  try:
    # The archive's checksums are compared on the way.
    with np.load(path, allow_pickle=False) as arrays:
      if str(arrays['fingerprint']) != state:
        return None
      return Pixels(*(arrays[field] for field in Pixels._fields))
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
    return None


def _write_cache(path: Path, state: str, pixels: Pixels) -> None:
  """Writes the copy under its name only when it is whole."""
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    try:
      with part.open('wb') as file:
        np.savez(file, fingerprint=np.array(state), **pixels._asdict())
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    finally:
      part.unlink(missing_ok=True)
  except OSError as error:
    logging.warning(
      'Every start has to decode the images again: %s cannot be written (%s).',
      path,
      error,
    )


def _decode(folder: Path, advance: Callable[[int], object]) -> Pixels:
  """Decodes all images of a prepared set."""
  # A start from the copy must not wait for this import.
  import tensorflow_datasets as tfds

  def drop(record: logging.LogRecord) -> bool:
    # It recommends OpenCV, which would save some seconds, once.
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
  except Exception as error:  # The readers raise whatever they stumble over.
    raise InvalidError(
      f'{folder} is damaged ({error}); remove it and prepare the set again.'
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
  # The order on disk is that of tensorflow-datasets' own shuffling.
  order = np.argsort(np.array(ids), kind='stable')
  return images[order], labels[order]


def to_device(images: np.ndarray, labels: np.ndarray) -> Split:
  """Puts a split on the device whole.

  Args:
    images: uint8 of shape (N, H, W, C).
    labels: Integers of shape (N,).

  Returns:
    The `Split`.

  Raises:
    ValueError: If the arrays are not of this kind or differ in length.
  """
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f'images are {images.dtype} of shape {images.shape}; they must be uint8'
      ' of shape (N, H, W, C).'
    )
  if labels.shape != images.shape[:1]:
    raise ValueError(
      f'labels have shape {labels.shape}, for {len(images)} images.'
    )
  return Split(jnp.asarray(images), jnp.asarray(labels, jnp.int32))


def steps_per_epoch(size: int, batch_size: int) -> int:
  """The number of full batches in `size` images; the remainder is dropped.

  Raises:
    ValueError: If `batch_size` is below 1 or there is no full batch.
  """
  if not 1 <= batch_size <= size:
    raise ValueError(
      f'batch_size is {batch_size}; with {size} images it is 1 to {size}.'
    )
  return size // batch_size


def eval_batches(size: int, batch_size: int) -> int:
  """The number of batches that hold `size` images, the last one padded.

  Raises:
    ValueError: If either number is below 1.
  """
  if batch_size < 1 or size < 1:
    raise ValueError(
      f'batch_size is {batch_size} with {size} images; both must be positive.'
    )
  return -(-size // batch_size)


def _key(seed: int | Array, use: int) -> Array:
  # The generator is named: jax.config may choose one that is no function of
  # the key alone across devices.
  key = jax.random.key(seed, impl='threefry2x32')
  return jax.random.fold_in(key, np.uint32(use))


def epoch_order(seed: int | Array, epoch: int | Array, size: int) -> Array:
  """The order of the images in an epoch, a function of (seed, epoch).

  Args:
    seed: Of the run; may be traced.
    epoch: From 0; may be traced.
    size: Number of images.

  Returns:
    A permutation of 0 ... size - 1, int32 of shape (size,).
  """
  key = jax.random.fold_in(_key(seed, _ORDER), epoch)
  return jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))


def train_batch(
  split: Split,
  order: Array,
  index: int | Array,
  batch_size: int,
  *,
  seed: int | Array,
  epoch: int | Array,
  mean: Floats3,
  std: Floats3,
  flip: bool,
  padding: int = 4,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> dict[str, Array]:
  """One batch of training images: cropped, flipped and normalised.

  Each image is cropped at random, on its own, out of itself with `padding`
  black pixels around it, and mirrored with probability 1/2.

  Args:
    split: The training split.
    order: Of this epoch, from `epoch_order`.
    index: Of the batch in its epoch, 0 to `steps_per_epoch` - 1; may be traced,
      and is then not checked.
    batch_size: Number of images, B.
    seed: Of the run; may be traced.
    epoch: From 0; may be traced.
    mean: Of each channel, with pixels in [0, 1].
    std: Standard deviation of each channel, likewise.
    flip: Whether to mirror.
    padding: Pixels; 0 leaves out the crop.
    dtype: Of the images; they are normalised in float32.

  Returns:
    'image' of shape (B, H, W, C), 'label' int32 of shape (B,).

  Raises:
    ValueError: If the padding is negative or there is no such batch.
  """
  steps = steps_per_epoch(len(order), batch_size)
  if padding < 0:
    raise ValueError(f'padding is {padding}; it must be at least 0.')
  if isinstance(index, int) and not 0 <= index < steps:
    raise ValueError(f'batch {index} of an epoch of {steps} batches.')
  chosen = lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
  key = jax.random.fold_in(_key(seed, _AUGMENT), epoch)
  key = jax.random.fold_in(key, index)
  images = _augmented(split.images, chosen, key, flip, padding)
  image = _normalised(images, mean, std, dtype)
  return {'image': image, 'label': split.labels[chosen]}


def _augmented(
  images: Array, chosen: Array, key: Array, flip: bool, padding: int
) -> Array:
  """Gathers, crops and mirrors in one go, without padding a copy."""
  batch, (height, width) = len(chosen), images.shape[1:3]
  crop_key, flip_key = jax.random.split(key)
  shift = jax.random.randint(
    crop_key, (2, batch, 1), -padding, padding + 1, jnp.int32
  )
  rows = shift[0] + jnp.arange(height)[None]
  columns = shift[1] + jnp.arange(width)[None]
  if flip:
    mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
    columns = jnp.where(mirrored, width - 1 - columns, columns)
  rows, columns = rows[:, :, None], columns[:, None, :]
  inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
  pixels = images[
    chosen[:, None, None],
    jnp.clip(rows, 0, height - 1),
    jnp.clip(columns, 0, width - 1),
  ]
  return jnp.where(inside[..., None], pixels, jnp.uint8(0))


def _normalised(
  images: Array, mean: Floats3, std: Floats3, dtype: jax.typing.DTypeLike
) -> Array:
  shape = (1, 1, 1, -1)
  centre = jnp.asarray(mean, jnp.float32).reshape(shape)
  scale = jnp.asarray(std, jnp.float32).reshape(shape)
  return ((images.astype(jnp.float32) / 255 - centre) / scale).astype(dtype)


def eval_batch(
  split: Split,
  index: int | Array,
  batch_size: int,
  *,
  mean: Floats3,
  std: Floats3,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> dict[str, Array]:
  """One batch of images as they are, normalised, in their order.

  Args:
    split: Usually the test split.
    index: Of the batch, 0 to `eval_batches` - 1; may be traced.
    batch_size: Number of images, B.
    mean: Of each channel, with pixels in [0, 1].
    std: Standard deviation of each channel, likewise.
    dtype: Of the images; they are normalised in float32.

  Returns:
    'image' of shape (B, H, W, C), 'label' int32 of shape (B,), and 'mask',
    float32 of shape (B,): 1 for an image, 0 for what fills up the last batch.
    Over all batches every image has the mask 1 exactly once.

  Raises:
    ValueError: If `batch_size` is below 1 or the split is empty.
  """
  eval_batches(len(split.labels), batch_size)
  places = index * batch_size + jnp.arange(batch_size)
  chosen = jnp.minimum(places, len(split.labels) - 1)
  return {
    'image': _normalised(split.images[chosen], mean, std, dtype),
    'label': split.labels[chosen],
    'mask': (places < len(split.labels)).astype(jnp.float32),
  }
