"""The interface between data and training: batches of any step and of a test.

A data set in the memory of the devices and a stream from disk are two
implementations. The training loop and the test depend on neither.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Batch = dict[str, Array]


class Examples(NamedTuple):
  """Examples in a fixed order and without augmentation, as a test needs them.

  Attributes:
    size: Number of examples.
    batch: `(index, batch_size) -> batch` with 'input' of shape
      (batch_size, height, width, channels), or (batch_size, context) for
      tokens; 'label' int32 of shape (batch_size,), or (batch_size, context);
      and 'mask' float32 of shape (batch_size,): 1 for an example, 0 for the
      padding of the last batch. Any size from 1 is valid, also one that the
      devices cannot split evenly.
    largest_batch: Number of examples that a test computes at a time; 2, 4, 8, …
      devices divide it.
  """

  size: int
  batch: Callable[[int, int], Batch]
  largest_batch: int = 512


class TracedBatches(NamedTuple):
  """Training batches that are made inside jit, from data on the devices.

  Attributes:
    shared: Pytree on the devices that all seeds share, such as all images.
    context: `(seed, epoch) -> pytree`, traceable. The batches of a seed in this
      epoch, and the first batch of the next epoch, are made from the pytree.
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
    classes: Name of each class, in the order of the labels.
    train: `(seed, number) -> batch` with 'input' and 'label', on the devices.
      `number` counts batches from 0 over all epochs. A batch depends only on
      the two arguments, so that a resumed run gets the same batches.
    evaluate: Test examples.
    calibrate: Training examples without augmentation. The first ones are of
      all classes.
    traced: The batches of `train`, made inside jit; None if the host makes
      them.
    digest: Digest of the data, if other data may have the same configuration.
  """

  steps_per_epoch: int
  classes: tuple[str, ...]
  train: Callable[[int, int], Batch]
  evaluate: Examples
  calibrate: Examples
  traced: TracedBatches | None = None
  digest: str = ''
