"""Tests a network and measures its batch statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.build import losses
from experiments.data.pipeline import Batch, Examples
from mq_jax.models import batch_statistics

Evaluate = Callable[[Any, Any], tuple[float, float]]
Recalibrate = Callable[[Any, Any], Any]
EVAL_BATCH = 512  # 2, 4, 8, … devices divide it.


def make_evaluate(
  examples: Examples, net: Any, losses_of: losses.Losses
) -> Evaluate:
  """Makes the test of a network on all examples.

  Args:
    examples: Images of the test.
    net: Linen module.
    losses_of: `(logits, labels) -> loss of each example`.

  Returns:
    `(params, batch_stats) -> (mean loss, accuracy in percent)`.
  """
  evaluate_batch = losses.make_evaluation(net, losses_of)

  @jax.jit
  def add_batch(
    totals: Any, batch: Batch, params: Any, batch_stats: Any
  ) -> Any:
    return jax.tree.map(
      jnp.add, totals, evaluate_batch(params, batch_stats, batch)
    )

  def evaluate(params: Any, batch_stats: Any) -> tuple[float, float]:
    totals = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for index in range(-(-examples.size // EVAL_BATCH)):
      batch = examples.batch(index, EVAL_BATCH)
      totals = add_batch(totals, batch, params, batch_stats)
    loss, correct = jax.device_get(totals)
    return float(loss) / examples.size, 100 * float(correct) / examples.size

  return evaluate


def make_recalibrate(
  examples: Examples, net: Any, batch_count: int
) -> Recalibrate:
  """Makes the measurement of batch statistics with given parameters.

  Args:
    examples: Training images, not augmented.
    net: Linen module.
    batch_count: Maximum number of batches of `EVAL_BATCH` images to use; 0
      keeps the batch statistics of training.

  Returns:
    `(params, batch_stats) -> batch_stats`.
  """
  if not batch_count:
    return lambda params, batch_stats: batch_stats
  size = min(EVAL_BATCH, examples.size)
  count = min(batch_count, examples.size // size)

  @jax.jit
  def add_batch(totals: Any, batch: Batch, params: Any) -> Any:
    statistics = batch_statistics(net, params, totals, batch['image'])
    return jax.tree.map(jnp.add, totals, statistics)

  def recalibrate(params: Any, batch_stats: Any) -> Any:
    totals = jax.tree.map(jnp.zeros_like, batch_stats)
    for index in range(count):
      totals = add_batch(totals, examples.batch(index, size), params)
    return jax.tree.map(lambda leaf: leaf / count, totals)

  return recalibrate
