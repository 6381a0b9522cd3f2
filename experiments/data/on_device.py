"""The pipeline of a data set that fits into the memory of a device."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.common import parallel
from experiments.common.errors import ConfigError
from experiments.data import batches
from experiments.data.batches import Split
from experiments.data.pipeline import Batch, Examples, Pipeline, TracedBatches
from experiments.data.raw_examples import Floats3, Inputs, RawExamples

Array = jax.Array
# The configuration keys that `device_pipeline` depends on.
READS = ('batch_size', 'epoch_steps', 'holdout', 'augment', 'dtype')


class ImageSet(NamedTuple):
  """A data set in the memory of the host.

  Attributes:
    train_images: uint8 of shape (N, height, width, channels).
    train_labels: int32 of shape (N,).
    test_images: uint8 of shape (M, height, width, channels).
    test_labels: int32 of shape (M,).
    mean: Mean of each channel, with pixels in [0, 1].
    std: Standard deviation of each channel, with pixels in [0, 1].
    class_names: Name of each class, in the order of the labels.
    flip: An image mirrored left to right keeps its label.
    padding: Number of black pixels around an image before a random crop.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  mean: Floats3
  std: Floats3
  class_names: tuple[str, ...]
  flip: bool
  padding: int = 4


def hold_out(images: ImageSet, count: int) -> ImageSet:
  """Replaces the test set with training images, which training then leaves out.

  Args:
    images: Any data set.
    count: Number of training images to move, the same ones at every call; 0
      returns the data set itself.
  """
  if not count:
    return images
  test, train = held_out(len(images.train_labels), count)
  return images._replace(
    train_images=images.train_images[train],
    train_labels=images.train_labels[train],
    test_images=images.train_images[test],
    test_labels=images.train_labels[test],
  )


def held_out(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Divides training images; the same arguments give the same division.

  Args:
    size: Number of training images.
    count: Number of images to test on.

  Returns:
    The places of the images to test on and of the others, each ascending.
  """
  order = np.random.default_rng(0).permutation(size)
  return np.sort(order[:count]), np.sort(order[count:])


def raw_images(images: ImageSet, holdout: int) -> RawExamples:
  """Returns the test images of a data set.

  Args:
    images: Data set before images are held out.
    holdout: Number of training images that replace the test set.
  """
  images = hold_out(images, holdout)

  def batches_of(size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images.test_images), size):
      yield images.test_images[start : start + size]

  height, width, channels = images.test_images.shape[1:]
  inputs = Inputs(
    (height, width, channels), images.mean, images.std, images.class_names
  )
  return RawExamples(inputs, images.test_labels, batches_of)


def device_pipeline(images: ImageSet, keys: ConfigDict, mesh: Mesh) -> Pipeline:
  """Makes the pipeline of a data set that is copied to every device.

  Args:
    images: Data set before images are held out.
    keys: Configuration with at least the keys in `READS`.
    mesh: Devices that each batch is split over.

  Raises:
    ConfigError: If the data set has fewer images than a batch, or the devices
      cannot split a batch evenly.
  """
  check_sizes(len(images.train_labels), keys, mesh)
  images = hold_out(images, keys.holdout)
  size = len(images.train_labels)
  steps_per_epoch = batches.steps_per_epoch(size, keys.batch_size)
  steps_per_epoch = min(steps_per_epoch, keys.epoch_steps or steps_per_epoch)

  def normalised(batch: Batch) -> Batch:
    pixels = batches.normalised(
      batch['input'], images.mean, images.std, keys.dtype
    )
    return batch | {'input': pixels}

  def examples(split: Split) -> Examples:
    @functools.partial(jax.jit, static_argnames='batch_size')
    def batch(split: Split, index: Array, batch_size: int) -> Batch:
      batch = normalised(batches.eval_batch(split, index, batch_size))
      return test_batch(batch, mesh)

    return Examples(len(split.labels), functools.partial(batch, split))

  def context(seed: Array, epoch: Array) -> tuple[Array, Array, Array]:
    """Returns seed, epoch, and the orders of this epoch and the next one."""
    orders = [batches.epoch_order(seed, epoch + i, size) for i in (0, 1)]
    return seed, epoch, jnp.stack(orders)

  def train_batch(shared: Split, context: Any, number: Array) -> Batch:
    seed, first_epoch, orders = context
    epoch = number // steps_per_epoch
    batch = batches.train_batch(
      shared,
      orders[epoch - first_epoch],
      number % steps_per_epoch,
      keys.batch_size,
      seed=seed,
      epoch=epoch,
      flip=images.flip and keys.augment,
      padding=images.padding if keys.augment else 0,
    )
    return parallel.split_batch(normalised(batch), mesh)

  def on_devices(images: np.ndarray, labels: np.ndarray) -> Split:
    return parallel.replicated(batches.to_device(images, labels), mesh)

  train_split = on_devices(images.train_images, images.train_labels)
  test_split = on_devices(images.test_images, images.test_labels)
  traced = TracedBatches(train_split, context, train_batch)
  return Pipeline(
    steps_per_epoch=steps_per_epoch,
    classes=images.class_names,
    train=from_traced(traced, steps_per_epoch, mesh),
    evaluate=examples(test_split),
    calibrate=examples(train_split),
    traced=traced,
  )


def from_traced(
  traced: TracedBatches, steps_per_epoch: int, mesh: Mesh
) -> Callable[[int, int], Batch]:
  """Makes `Pipeline.train` from batches that are made inside jit."""
  make_context, make_batch = jax.jit(traced.context), jax.jit(traced.batch)
  # Seed to its latest epoch and the context of that epoch.
  contexts: dict[int, tuple[int, Any]] = {}

  def scalars(*numbers: int) -> Any:
    # An implicit transfer is an error in the training loop.
    return parallel.replicated(tuple(map(np.int32, numbers)), mesh)

  def train(seed: int, number: int) -> Batch:
    epoch = number // steps_per_epoch
    if seed not in contexts or contexts[seed][0] != epoch:
      contexts[seed] = epoch, make_context(*scalars(seed, epoch))
    return make_batch(traced.shared, contexts[seed][1], *scalars(number))

  return train


def test_batch(batch: Batch, mesh: Mesh) -> Batch:
  """Splits a batch of a test, whose size the devices may not divide."""
  if len(batch['label']) % mesh.size:
    return parallel.keep_replicated(batch, mesh)
  return parallel.split_batch(batch, mesh)


def check_split(batch_size: int, mesh: Mesh) -> None:
  """Raises `ConfigError` if the devices cannot split a batch evenly."""
  if batch_size % mesh.size:
    raise ConfigError(
      f'config.batch_size={batch_size} must be a multiple of {mesh.size}, the'
      ' number of devices that config.mesh_data splits a batch over.'
    )


def check_sizes(available: int, keys: ConfigDict, mesh: Mesh) -> None:
  """Refuses a batch that the data cannot fill or the devices cannot split.

  Args:
    available: Number of training images before images are held out.
    keys: Configuration with at least 'batch_size' and 'holdout'.
    mesh: Devices that each batch is split over.

  Raises:
    ConfigError: If a batch or the test has too many images.
  """
  check_split(keys.batch_size, mesh)
  needed = (
    f' A batch and the test need {keys.batch_size + keys.holdout} training'
    f' images, and there are {available}.'
  )
  if keys.holdout >= available:
    raise ConfigError(
      f'config.holdout={keys.holdout} must be below {available}, the number of'
      f' training images.{needed}'
    )
  if keys.batch_size > available - keys.holdout:
    raise ConfigError(
      f'config.batch_size={keys.batch_size} must be at most'
      f' {available - keys.holdout}, the number of training images without'
      f' the config.holdout={keys.holdout} images for the test.{needed}'
    )
