"""Tests a network and measures its batch statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.build import losses
from experiments.data.pipeline import Batch, Examples
from mq_jax.models import batch_statistics

Evaluate = Callable[..., dict[str, float]]
Recalibrate = Callable[..., Any]
Between = Callable[[], None]


def _nothing() -> None:
  """Stops nothing."""


def make_evaluate(
  examples: Examples, net: Any, losses_of: losses.Losses
) -> Evaluate:
  """Makes the test of a network on all examples.

  Args:
    examples: Images of the test.
    net: Linen module.
    losses_of: `(logits, labels) -> loss of each example`.

  Returns:
    `(params, batch_stats, between=…) -> scores`: the mean `loss`, `accuracy`
    in percent and, with many classes, `top5_accuracy` in percent
    (`losses.make_evaluation`). `between` is called before each batch, and may
    raise an error to stop.
  """
  evaluate_batch = losses.make_evaluation(net, losses_of)

  @jax.jit
  def add_batch(
    totals: Any, batch: Batch, params: Any, batch_stats: Any
  ) -> Any:
    return jax.tree.map(
      jnp.add, totals, evaluate_batch(params, batch_stats, batch)
    )

  def evaluate(
    params: Any, batch_stats: Any, between: Between = _nothing
  ) -> dict[str, float]:
    totals: Any = None
    # Few images are not padded to a large batch, which would take as long.
    size = min(examples.largest_batch, 1 << (examples.size - 1).bit_length())
    for index in range(-(-examples.size // size)):
      # Otherwise all batches would be in the queue of the device at once.
      jax.block_until_ready(totals)
      between()
      batch = examples.batch(index, size)
      if totals is None:
        sums = jax.eval_shape(evaluate_batch, params, batch_stats, batch)
        totals = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
      totals = add_batch(totals, batch, params, batch_stats)
    means = {
      name: float(total) / examples.size
      for name, total in jax.device_get(totals).items()
    }
    # Accuracies are in percent.
    return {n: m if n == 'loss' else 100 * m for n, m in means.items()}

  return evaluate


def make_recalibrate(
  examples: Examples, net: Any, batch_count: int
) -> Recalibrate:
  """Makes the measurement of batch statistics with given parameters.

  Args:
    examples: Training images, not augmented.
    net: Linen module.
    batch_count: Maximum number of batches of `largest_batch` images to use; 0
      keeps the batch statistics of training.

  Returns:
    `(params, batch_stats, between=…) -> batch_stats`, with `between` as in
    `make_evaluate`.
  """
  if not batch_count:
    return lambda params, batch_stats, between=_nothing: batch_stats
  size = min(examples.largest_batch, examples.size)
  count = min(batch_count, examples.size // size)

  @jax.jit
  def add_batch(totals: Any, batch: Batch, params: Any) -> Any:
    statistics = batch_statistics(net, params, totals, batch['input'])
    return jax.tree.map(jnp.add, totals, statistics)

  def recalibrate(
    params: Any, batch_stats: Any, between: Between = _nothing
  ) -> Any:
    totals = jax.tree.map(jnp.zeros_like, batch_stats)
    for index in range(count):
      jax.block_until_ready(totals)
      between()
      totals = add_batch(totals, examples.batch(index, size), params)
    return jax.tree.map(lambda leaf: leaf / count, totals)

  return recalibrate
