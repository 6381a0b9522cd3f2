"""The compiled parts of a run: its first state, a chunk of steps, the test.

Step k (from 0) applies the gradients of batch k and takes those of batch k + 1,
counted over all epochs; batch 0 belongs to the first state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

import mq_jax
from experiments import build, data

Array = jax.Array
EVAL_BATCH = 500


class Totals(NamedTuple):
  """Sums over the steps of a chunk, which ends early where one is not finite.

  Attributes:
    steps: Steps taken, int32.
    loss: Sum of their losses.
    accuracy: Sum of their training accuracies, 0 to 1 each.
    finite: Whether all losses and gradients were finite.
  """

  steps: Array
  loss: Array
  accuracy: Array
  finite: Array


def _no_totals() -> Totals:
  return Totals(
    steps=jnp.zeros((), jnp.int32),
    loss=jnp.zeros((), jnp.float32),
    accuracy=jnp.zeros((), jnp.float32),
    finite=jnp.array(True),
  )


class Loop(NamedTuple):
  """The compiled parts of a run.

  Attributes:
    steps_per_epoch: Full batches in the training set.
    train: The train step.
    start: `() -> state` before the first step.
    run: `(state, first step, steps) -> (state, Totals)`; donates the state.
    evaluate: `(params, batch_stats) -> (loss, accuracy in percent)` on the
      whole test set.
  """

  steps_per_epoch: int
  train: mq_jax.TrainStep
  start: Callable[[], mq_jax.State]
  run: Callable[[mq_jax.State, int, int], tuple[mq_jax.State, Totals]]
  evaluate: Callable[[Any, Any], tuple[float, float]]


def make_loop(
  config: ConfigDict,
  dataset: data.Dataset,
  net: Any,
  params: Any,
  batch_stats: Any,
) -> Loop:
  """Makes the parts for one configuration.

  Args:
    config: A checked configuration.
    dataset: The data, which is moved to the device whole.
    net: Linen module.
    params: Weights to start from.
    batch_stats: Batch statistics to start from.

  Returns:
    A `Loop`.
  """
  size = len(dataset.train_labels)
  spe = data.steps_per_epoch(size, config.batch_size)
  train = build.make_train_step(config, build.make_loss(net), spe)
  split = data.to_device(dataset.train_images, dataset.train_labels)
  test = data.to_device(dataset.test_images, dataset.test_labels)
  pixels = {
    'mean': dataset.mean,
    'std': dataset.std,
    'dtype': build.DTYPES[config.dtype],
  }

  def batch(split: data.Split, orders: Array, first: Any, count: Any) -> Any:
    # `orders` are those of epoch `first` and of the next.
    epoch = count // spe
    return data.train_batch(
      split,
      orders[epoch - first],
      count % spe,
      config.batch_size,
      seed=config.seed,
      epoch=epoch,
      flip=dataset.flip,
      **pixels,
    )

  @jax.jit
  def orders_from(epoch: Array) -> Array:
    return jnp.stack(
      [data.epoch_order(config.seed, epoch + later, size) for later in (0, 1)]
    )

  def start() -> mq_jax.State:
    first = jax.jit(batch)(split, orders_from(0), 0, 0)
    return train.init(jax.random.key(config.seed), params, batch_stats, first)

  def one(
    carry: tuple[mq_jax.State, Totals], split: data.Split, orders: Array
  ) -> tuple[mq_jax.State, Totals]:
    state, totals = carry
    # The last step of an epoch is the only one whose batch is of the next.
    epoch = state.step // spe
    state, metrics = train.step_fn(
      state, batch(split, orders, epoch, state.step + 1)
    )
    return state, Totals(
      totals.steps + 1,
      totals.loss + metrics['loss'],
      totals.accuracy + metrics['accuracy'],
      metrics['finite'],
    )

  def chunk(
    carry: tuple[mq_jax.State, Totals],
    split: data.Split,
    orders: Array,
    steps: Array,
  ) -> tuple[mq_jax.State, Totals]:
    return lax.while_loop(
      lambda carry: (carry[1].steps < steps) & carry[1].finite,
      lambda carry: one(carry, split, orders),
      carry,
    )

  jitted_one = jax.jit(one, donate_argnums=0)
  jitted_chunk = jax.jit(chunk, donate_argnums=0)

  def run(
    state: mq_jax.State, first: int, steps: int
  ) -> tuple[mq_jax.State, Totals]:
    if first // spe != (first + steps - 1) // spe:
      raise ValueError(f'{steps} steps from {first} leave their epoch.')
    orders = orders_from(first // spe)
    carry = state, _no_totals()
    if jax.default_backend() != 'cpu':
      return jitted_chunk(carry, split, orders, steps)
    # XLA's CPU compiler runs a convolution within a loop some forty times
    # slower than one outside, so the loop is Python's here.
    while carry[1].steps < steps and carry[1].finite:
      carry = jitted_one(carry, split, orders)
    return carry

  evaluate_batch = build.make_evaluation(net)
  n_test = len(dataset.test_labels)

  @jax.jit
  def add_batch(
    total: Any, test: data.Split, index: Array, params: Any, batch_stats: Any
  ) -> Any:
    batch = data.eval_batch(test, index, EVAL_BATCH, **pixels)
    return jax.tree.map(
      jnp.add, total, evaluate_batch(params, batch_stats, batch)
    )

  def evaluate(params: Any, batch_stats: Any) -> tuple[float, float]:
    total = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for index in range(data.eval_batches(n_test, EVAL_BATCH)):
      total = add_batch(total, test, index, params, batch_stats)
    loss, correct = jax.device_get(total)
    return float(loss) / n_test, 100 * float(correct) / n_test

  return Loop(spe, train, start, run, evaluate)
