"""The data of a run: CIFAR-10, CIFAR-100, or scikit-learn's digits."""

import os
from typing import NamedTuple

import numpy as np

from experiments.data.store import find_prepared, read_prepared

Floats3 = tuple[float, float, float]

# Mean and standard deviation of the channels, as in the authors' code.
PIXELS: dict[str, tuple[Floats3, Floats3]] = {
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
  'cifar100': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
NAMES = (*PIXELS, 'digits')


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


def hold_out(dataset: Dataset, count: int) -> Dataset:
  """Tests on training images, which are then not trained on.

  Args:
    dataset: Any.
    count: Training images to take, the same at every call; 0 for none.

  Returns:
    A `Dataset` whose test set is these images.
  """
  if not count:
    return dataset
  order = np.random.default_rng(0).permutation(len(dataset.train_labels))
  held, kept = np.sort(order[:count]), np.sort(order[count:])
  return dataset._replace(
    train_images=dataset.train_images[kept],
    train_labels=dataset.train_labels[kept],
    test_images=dataset.train_images[held],
    test_labels=dataset.train_labels[held],
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
