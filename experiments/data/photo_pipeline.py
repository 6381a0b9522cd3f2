"""The pipeline of photographs on disk, which threads decode."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.common.errors import (
  ConfigError,
  MissingError,
  UnreadableError,
)
from experiments.data import batches, crops
from experiments.data.device_batch import start_batch
from experiments.data.on_device import check_sizes, held_out
from experiments.data.photographs import BadImageError, central_crop, crop
from experiments.data.pipeline import Batch, Examples, Pipeline
from experiments.data.prefetch import cpu_count, prefetched
from experiments.data.raw_examples import Floats3
from mq_jax.files import content_digest

# The configuration keys that `photo_pipeline` depends on.
READS = (
  *('batch_size', 'epoch_steps', 'holdout', 'augment', 'dtype'),
  *('image_size', 'resize', 'pixels', 'workers'),
)
# Mean and deviation of each channel, with pixels in [0, 1].
PIXELS: dict[str, tuple[Floats3, Floats3]] = {
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  # (x − 128) / 128 of a pixel x in [0, 255].
  'half': ((128 / 255,) * 3, (128 / 255,) * 3),
}
TRAIN_AHEAD, TEST_AHEAD = 3, 1  # Batches.
LARGEST_KEPT = 2**30  # Bytes of decoded test images.
_ORDER, _CROP, _CALIBRATE = 0xDA7A0011, 0xDA7A0012, 0xDA7A0013

Pixels = Callable[[int], np.ndarray]


class Photos(NamedTuple):
  """The photographs of a split.

  Attributes:
    read: `(i) -> bytes`, the content of the file of photograph i.
    name: `(i) -> name` for messages.
    labels: int32 of shape (N,).
    orientations: Values of EXIF's tag, 1 to 8, of shape (N,).
  """

  read: Callable[[int], bytes]
  name: Callable[[int], str]
  labels: np.ndarray
  orientations: np.ndarray


class PhotoSet(NamedTuple):
  """A data set of photographs.

  Attributes:
    classes: Name of each class, in the order of the labels.
    train: Photographs to train on.
    test: Photographs to test on; None if the set has no such photographs.
    place: Folder of the set, for messages.
    files: Arrays that identify the files: the paths and the sizes of the
      photographs to train and to test on. None for a set with one content,
      whose forms have one digest.
  """

  classes: tuple[str, ...]
  train: Photos
  test: Photos | None
  place: str
  files: dict[str, np.ndarray] | None = None

  @property
  def digest(self) -> str:
    """Digest of the classes, the labels and `files`."""
    arrays = {'train': self.train.labels}
    if self.test is not None:
      arrays['test'] = self.test.labels
    return content_digest(arrays | (self.files or {}), self.classes)


def photo_pipeline(photos: PhotoSet, keys: ConfigDict, mesh: Mesh) -> Pipeline:
  """Makes the pipeline of photographs that are decoded for each batch.

  Args:
    photos: Data set before photographs are held out.
    keys: Configuration with at least the keys in `READS`.
    mesh: Devices that each batch is split over. A process decodes only what its
      own devices need.

  Raises:
    ConfigError: If there are no photographs to test on, fewer than a batch to
      train on, or the devices cannot split a batch evenly.
  """
  check_sizes(len(photos.train.labels), keys, mesh)
  train, test = split_photos(photos, keys.holdout)
  size, batch_size = len(train.labels), keys.batch_size
  steps_per_epoch = batches.steps_per_epoch(size, batch_size)
  steps_per_epoch = min(steps_per_epoch, keys.epoch_steps or steps_per_epoch)
  # Its threads end when the pipeline is no longer used.
  pool = ThreadPoolExecutor(keys.workers or cpu_count(), 'decode')
  start = functools.partial(start_batch, pool, mesh, keys.image_size)
  mean, std = PIXELS[keys.pixels]

  @jax.jit
  def normalise(image: jax.Array) -> jax.Array:
    return batches.normalised(image, mean, std, keys.dtype)

  def normalised(batch: Batch) -> Batch:
    return batch | {'input': normalise(batch['input'])}

  def train_batches(seed: int) -> Callable[[int], Batch]:
    order_of = functools.lru_cache(2)(
      lambda epoch: np.random.default_rng([seed, epoch, _ORDER]).permutation(
        size
      )
    )

    def start_train(number: int) -> Future[Batch]:
      epoch, index = divmod(number, steps_per_epoch)
      places = order_of(epoch)[index * batch_size :][:batch_size]

      def pixels(row: int) -> np.ndarray:
        if not keys.augment:
          return test_pixels(train, keys, places[row])
        rng = np.random.default_rng([seed, number, row, _CROP])
        return train_pixels(train, keys, places[row], rng)

      return start(pixels, {'label': train.labels[places]})

    return prefetched(start_train, TRAIN_AHEAD)

  seeds: dict[int, Callable[[int], Batch]] = {}

  def train_batch(seed: int, number: int) -> Batch:
    if seed not in seeds:
      seeds[seed] = train_batches(seed)
    return normalised(seeds[seed](number))

  def examples(split: Photos) -> Examples:
    return _examples(split, keys, start, normalised)

  # The files are in the order of the classes, and calibration reads the first.
  mixed = np.random.default_rng(_CALIBRATE).permutation(size)

  return Pipeline(
    steps_per_epoch=steps_per_epoch,
    classes=photos.classes,
    train=train_batch,
    evaluate=examples(test),
    calibrate=examples(_subset(train, mixed)),
    digest=photos.digest,
  )


def train_pixels(
  photos: Photos, keys: ConfigDict, place: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns a random crop of a photograph, mirrored with probability 1/2."""
  is_mirrored = rng.random() < 0.5
  choose = functools.partial(crops.random_box, rng)
  pixels = _decoded(
    photos,
    place,
    lambda content, orientation: crop(
      content, orientation, choose, keys.image_size
    ),
  )
  return pixels[:, ::-1] if is_mirrored else pixels


def test_pixels(photos: Photos, keys: ConfigDict, place: int) -> np.ndarray:
  """Returns the central crop of a photograph."""
  return _decoded(
    photos,
    place,
    functools.partial(central_crop, resize=keys.resize, size=keys.image_size),
  )


def _decoded(
  photos: Photos, place: int, decode: Callable[[bytes, int], np.ndarray]
) -> np.ndarray:
  """Decodes a photograph by a function of its content and orientation."""
  remedy = 'Restore the file, or prepare the data set again.'
  try:
    return decode(photos.read(place), int(photos.orientations[place]))
  except FileNotFoundError as error:
    raise MissingError(
      f'{photos.name(place)} was removed during the run. {remedy}'
    ) from error
  except (OSError, BadImageError) as error:
    raise UnreadableError(
      f'{photos.name(place)} was readable when the data set was prepared, but'
      f' is not now: {error}. {remedy}'
    ) from error


def split_photos(photos: PhotoSet, holdout: int) -> tuple[Photos, Photos]:
  """Returns the photographs to train on and those to test on.

  Args:
    photos: Data set before photographs are held out.
    holdout: Number of photographs to test on instead of `photos.test`.

  Raises:
    ConfigError: If there are no photographs to test on.
  """
  if not holdout:
    if photos.test is None:
      raise ConfigError(
        f'{photos.place} has no photographs to test on. Add a folder val with'
        ' the class folders of train, or set config.holdout to the number of'
        ' training photographs to test on instead.'
      )
    return photos.train, photos.test
  test, train = held_out(len(photos.train.labels), holdout)
  return _subset(photos.train, train), _subset(photos.train, test)


def _subset(photos: Photos, places: np.ndarray) -> Photos:
  return Photos(
    lambda i: photos.read(places[i]),
    lambda i: photos.name(places[i]),
    photos.labels[places],
    photos.orientations[places],
  )


def _examples(
  photos: Photos,
  keys: ConfigDict,
  start: Callable[..., Future[Batch]],
  normalised: Callable[[Batch], Batch],
) -> Examples:
  """Makes the test on the photographs of a split."""
  size = len(photos.labels)
  shape = (size, keys.image_size, keys.image_size, 3)
  # Memory is taken only where pixels are written.
  is_kept = np.prod(shape, dtype=np.int64) <= LARGEST_KEPT
  kept = np.empty(shape if is_kept else 0, np.uint8)
  has = np.zeros(size, bool)

  def start_test(batch_size: int, index: int) -> Future[Batch]:
    places = index * batch_size + np.arange(batch_size)
    is_real = places < size
    places = np.minimum(places, size - 1)

    def pixels(row: int) -> np.ndarray | None:
      place = places[row]
      if not is_real[row]:
        return None
      if not is_kept:
        return test_pixels(photos, keys, place)
      if not has[place]:
        kept[place] = test_pixels(photos, keys, place)
        has[place] = True
      return kept[place]

    labels, mask = photos.labels[places], is_real.astype(np.float32)
    return start(pixels, {'label': labels, 'mask': mask})

  @functools.lru_cache
  def batches_of(batch_size: int) -> Callable[[int], Batch]:
    return prefetched(
      functools.partial(start_test, batch_size),
      TEST_AHEAD,
      -(-size // batch_size),
    )

  def batch(index: int, batch_size: int) -> Batch:
    return normalised(batches_of(batch_size)(index))

  return Examples(size, batch)
