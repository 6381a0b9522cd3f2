"""Declares the data sets: CIFAR, scikit-learn's digits, and photographs."""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.common.errors import InvalidError, UserError
from experiments.data.on_device import (
  READS,
  ImageSet,
  device_pipeline,
  raw_images,
)
from experiments.data.photo_pipeline import READS as PHOTO_READS
from experiments.data.photo_pipeline import PhotoSet, photo_pipeline
from experiments.data.photo_sets import (
  check_photo_keys,
  folder_digest,
  read_folder,
  read_imagenet,
)
from experiments.data.pipeline import Pipeline
from experiments.data.raw_examples import Floats3, RawExamples
from experiments.data.raw_photos import raw_photos
from experiments.data.store import find_prepared, read_prepared
from experiments.data.text import READS as TEXT_READS
from experiments.data.text import (
  VOCABULARY,
  raw_text,
  read_text,
  text_digest,
  text_pipeline,
)

DataDir = str | os.PathLike[str] | None


class Dataset(NamedTuple):
  """The declaration of a data set.

  Attributes:
    input_spec: `(keys) -> shape and type` of one input of the network, such as
      (height, width, channels). `keys` has at least the keys in `reads`.
    pipeline: `(keys, mesh) -> Pipeline` of a run. `keys` has the keys in
      `reads`, and each batch is split over the devices of the mesh.
    reads: Configuration keys that the pipeline depends on.
    test: `(keys) -> RawExamples`, the test of `pipeline` before images are
      normalised, which `experiments.deploy` needs; None if it cannot deploy.
    load: `(data_dir) -> ImageSet`, all images in memory; None if they do not
      fit into it.
    check: `(keys) -> None`. It raises a `ConfigError` if keys in `reads` do not
      fit each other, and reads no files.
    smoke: Sizes of a smoke run, by key of the configuration.
    symbol: What a token is, such as 'byte': the test loss is also given in bits
      per symbol. '' if the examples are images.
    vocabulary: Number of different tokens; 0 for images.
    digest: `(keys) -> digest` of `Pipeline`, without the pipeline; '' if it is
      not known. None if the data are always the same, or if it takes long.
  """

  input_spec: Callable[[ConfigDict], jax.ShapeDtypeStruct]
  pipeline: Callable[[ConfigDict, Mesh], Pipeline]
  reads: tuple[str, ...]
  test: Callable[[ConfigDict], RawExamples] | None = None
  load: Callable[[DataDir], ImageSet] | None = None
  check: Callable[[ConfigDict], None] = lambda keys: None
  smoke: Mapping[str, int] = MappingProxyType({'batch_size': 16, 'holdout': 64})
  symbol: str = ''
  vocabulary: int = 0
  digest: Callable[[ConfigDict], str] | None = None

  @property
  def inputs(self) -> str:
    """Returns 'images' or 'tokens', the kind of the examples."""
    return 'tokens' if self.vocabulary else 'images'


def _pixels(side: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((side, side, 3), np.float32)


def in_memory(load: Callable[[DataDir], ImageSet]) -> Dataset:
  """Declares a data set of 32x32 images that fits into a device's memory.

  Args:
    load: `(data_dir) -> images`; `data_dir` is config.data_dir.
  """
  return Dataset(
    lambda keys: _pixels(32),
    lambda keys, mesh: device_pipeline(load(keys.data_dir), keys, mesh),
    ('data_dir', *READS),
    lambda keys: raw_images(load(keys.data_dir), keys.holdout),
    load,
  )


def _cifar(name: str, mean: Floats3, std: Floats3) -> Dataset:
  """Declares a CIFAR set with the mean and deviation of each channel."""

  def load(data_dir: DataDir) -> ImageSet:
    pixels = read_prepared(find_prepared(name, data_dir or None))
    return ImageSet(
      *pixels[:4], mean, std, tuple(map(str, pixels.names)), flip=True
    )

  return in_memory(load)


def _digits(data_dir: DataDir) -> ImageSet:
  """Returns 1437 + 360 images of digits: 8x8 pixels, each repeated 4x4."""
  del data_dir
  # The import is slow, and the other sets do not need it.
  from sklearn import datasets

  images, labels = datasets.load_digits(return_X_y=True)
  grey = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  grey = grey.repeat(4, axis=1).repeat(4, axis=2)
  images = np.repeat(grey[..., None], 3, axis=3)
  labels = labels.astype(np.int32)
  # The test has every fifth image of each class.
  test = np.zeros(len(labels), bool)
  test[np.argsort(labels, kind='stable')[::5]] = True
  train_images = images[~test]
  mean, std = train_images.mean() / 255, train_images.std() / 255
  return ImageSet(
    train_images,
    labels[~test],
    images[test],
    labels[test],
    (float(mean),) * 3,
    (float(std),) * 3,
    tuple('0123456789'),
    flip=False,
  )


def _photographs(read: Callable[[ConfigDict], PhotoSet]) -> Dataset:
  """Declares a data set of photographs, which are decoded for each batch."""
  return Dataset(
    lambda keys: _pixels(keys.image_size),
    lambda keys, mesh: photo_pipeline(read(keys), keys, mesh),
    ('data_dir', *PHOTO_READS),
    lambda keys: raw_photos(read(keys), keys),
    check=check_photo_keys,
    # A folder may have few photographs.
    smoke={'batch_size': 8, 'holdout': 8},
  )


# The means and deviations are those of the authors' code.
DATASETS = {
  'cifar10': _cifar(
    'cifar10', (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
  ),
  'cifar100': _cifar('cifar100', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
  'digits': in_memory(_digits),
  'folder': _photographs(read_folder)._replace(digest=folder_digest),
  'imagenet': _photographs(read_imagenet),
  'text': Dataset(
    lambda keys: jax.ShapeDtypeStruct((keys.context,), np.int32),
    lambda keys, mesh: text_pipeline(read_text(keys.data), keys, mesh),
    TEXT_READS,
    lambda keys: raw_text(read_text(keys.data), keys),
    smoke={'batch_size': 8, 'context': 16},
    symbol='byte',
    vocabulary=VOCABULARY,
    digest=lambda keys: text_digest(read_text(keys.data)),
  ),
}


def data_digest(config: ConfigDict, *, documentation: bool = False) -> str:
  """Returns the digest of the data of a configuration.

  It is empty if the data set declares no `digest`, or if it is not known, such
  as that of missing files.

  Args:
    config: Configuration with at least the keys that the data set reads.
    documentation: The text of the documentation has a digest too. Without it,
      runs on this text stay those of their configuration when a page changes.
  """
  declared = DATASETS[config.dataset]
  is_documentation = config.dataset == 'text' and not config.data
  if declared.digest is None or (is_documentation and not documentation):
    return ''
  try:
    return declared.digest(config)
  except (UserError, OSError):
    return ''


def load(name: str, data_dir: DataDir = None) -> ImageSet:
  """Loads a data set into memory.

  The first call for a CIFAR set decodes its images, which takes 10 to 20 s. A
  missing set is downloaded by tensorflow-datasets if TensorFlow is installed
  and the site of the set answers within 5 s.

  Args:
    name: Name of a data set that fits into memory.
    data_dir: Folder of prepared sets; default: $TFDS_DATA_DIR, then
      ~/tensorflow_datasets.

  Returns:
    The `ImageSet`, images in the order of the original files.

  Raises:
    InvalidError: If no set of this name declares `load`, or its files are
      damaged.
    FileNotFoundError: If the set is not prepared in `data_dir`; the message has
      the commands that prepare it.
  """
  loaders = {key: value.load for key, value in DATASETS.items() if value.load}
  if name not in loaders:
    raise InvalidError(
      f'dataset={name!r} declares no `load`, which returns its images. Use one'
      f' of {", ".join(loaders)}, or declare `load` in {__name__}.'
    )
  return loaders[name](data_dir)
