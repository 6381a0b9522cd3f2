"""The test of a network, and its statistics taken anew."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.build import losses, train_step
from experiments.common import parallel as sharding
from experiments.data import batches, datasets
from mq_jax.models import batch_statistics

Array = jax.Array
Evaluate = Callable[[Any, Any], tuple[float, float]]
Recalibrate = Callable[[Any, Any], Any]
EVAL_BATCH = 512  # divides among 2, 4, 8 … devices


def pixels_of(config: ConfigDict, dataset: datasets.Dataset) -> dict[str, Any]:
  """How images are normalised, in training and in the test."""
  return {
    'mean': dataset.mean,
    'std': dataset.std,
    'dtype': train_step.DTYPES[config.dtype],
  }


def make_evaluate(
  config: ConfigDict, dataset: datasets.Dataset, net: Any, devices: Mesh
) -> Evaluate:
  """The test of a network, as `Loop.evaluate` is."""
  test = sharding.replicated(
    batches.to_device(dataset.test_images, dataset.test_labels), devices
  )
  evaluate_batch = losses.make_evaluation(net, losses.LOSSES[config.loss])
  pixels = pixels_of(config, dataset)
  size = len(dataset.test_labels)

  @jax.jit
  def add_batch(
    total: Any, test: batches.Split, index: Array, params: Any, batch_stats: Any
  ) -> Any:
    batch = batches.eval_batch(test, index, EVAL_BATCH, **pixels)
    batch = sharding.split_batch(batch, devices)
    return jax.tree.map(
      jnp.add, total, evaluate_batch(params, batch_stats, batch)
    )

  def evaluate(params: Any, batch_stats: Any) -> tuple[float, float]:
    total = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for index in range(batches.eval_batches(size, EVAL_BATCH)):
      total = add_batch(total, test, index, params, batch_stats)
    loss, correct = jax.device_get(total)
    return float(loss) / size, 100 * float(correct) / size

  return evaluate


def make_recalibrate(
  config: ConfigDict, dataset: datasets.Dataset, net: Any, devices: Mesh
) -> Recalibrate:
  """As `Loop.recalibrate` is: from the first training images, not augmented.

  It takes `config.recalibrate` batches of `EVAL_BATCH`, or all there are.
  """
  if not config.recalibrate:
    return lambda params, batch_stats: batch_stats
  size = min(EVAL_BATCH, len(dataset.train_labels))
  number = min(config.recalibrate, len(dataset.train_labels) // size)
  train = sharding.replicated(
    batches.to_device(
      dataset.train_images[: number * size],
      dataset.train_labels[: number * size],
    ),
    devices,
  )
  pixels = pixels_of(config, dataset)

  @jax.jit
  def add_batch(
    total: Any, train: batches.Split, index: Array, params: Any
  ) -> Any:
    batch = batches.eval_batch(train, index, size, **pixels)
    images = sharding.split_batch(batch, devices)['image']
    own = batch_statistics(net, params, total, images)
    return jax.tree.map(jnp.add, total, own)

  def recalibrate(params: Any, batch_stats: Any) -> Any:
    total = jax.tree.map(jnp.zeros_like, batch_stats)
    for index in range(number):
      total = add_batch(total, train, index, params)
    return jax.tree.map(lambda leaf: leaf / number, total)

  return recalibrate
