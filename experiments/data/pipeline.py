"""The seam between data and training: batches of any step, and of a test.

A set that fits the devices and a stream from disk are two implementations. The
training loop and the test know no data set, no image shape and no file.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

Array = jax.Array
Batch = dict[str, Array]


class Options(NamedTuple):
  """What a run asks of its data.

  Attributes:
    data_dir: Folder of the data; empty: the default of the data set.
    batch_size: Number of images per training batch.
    epoch_steps: Largest number of batches per epoch; 0: all of them.
    holdout: Number of training images that replace the test set; 0: none.
    augment: Whether training images are augmented.
    dtype: Type of the images in a batch.
    mesh: Devices that each batch is split over.
  """

  data_dir: str
  batch_size: int
  epoch_steps: int
  holdout: int
  augment: bool
  dtype: jax.typing.DTypeLike
  mesh: Mesh


class Examples(NamedTuple):
  """Images in a fixed order, as a test takes them: not augmented.

  Attributes:
    size: Number of images.
    batch: `(index, batch_size) -> batch` with 'image' of shape
      (batch_size, height, width, channels), 'label' int32 of shape
      (batch_size,), and 'mask' float32 of shape (batch_size,): 1 for an image,
      0 for what fills up the last batch.
  """

  size: int
  batch: Callable[[int, int], Batch]


class TracedBatches(NamedTuple):
  """Training batches that are made inside jit, from data on the devices.

  Attributes:
    shared: Pytree on the devices that all seeds share, such as all images.
    context: `(seed, epoch) -> pytree`, traceable: what the batches of one seed
      in this epoch, and the first batch of the next epoch, are made from.
    batch: `(shared, context, number) -> batch`, traceable; `number` counts
      batches over all epochs.
  """

  shared: Any
  context: Callable[[Any, Any], Any]
  batch: Callable[[Any, Any, Any], Batch]


class Pipeline(NamedTuple):
  """The data of one run.

  Attributes:
    steps_per_epoch: Number of training batches per epoch.
    image_shape: Height, width and channels.
    classes: Name of each class, in the order of the labels.
    train: `(seed, number) -> batch` with 'image' and 'label', on the devices.
      `number` counts batches from 0 over all epochs. A batch depends on the two
      arguments alone, so that a resumed run gets the same batches.
    evaluate: Images of the test.
    calibrate: Training images, as a test takes them.
    traced: The batches of `train` made inside jit; None where they come from
      the host.
  """

  steps_per_epoch: int
  image_shape: tuple[int, int, int]
  classes: tuple[str, ...]
  train: Callable[[int, int], Batch]
  evaluate: Examples
  calibrate: Examples
  traced: TracedBatches | None = None
