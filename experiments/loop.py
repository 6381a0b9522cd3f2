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
from experiments import batches, build, data

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


Carry = tuple[mq_jax.State, Totals]
Run = Callable[[mq_jax.State, int, int], Carry]
Evaluate = Callable[[Any, Any], tuple[float, float]]


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
  run: Run
  evaluate: Evaluate


class _Batches(NamedTuple):
  """The training batches, counted over all epochs.

  Attributes:
    split: Images and labels on the device.
    orders: `(epoch) -> orders` of that epoch and of the next.
    get: `(split, orders, first, count) -> batch`; `first` is the epoch of the
      first of the two orders.
  """

  split: batches.Split
  orders: Callable[[Any], Array]
  get: Callable[[batches.Split, Array, Any, Any], dict[str, Array]]


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
  spe = batches.steps_per_epoch(len(dataset.train_labels), config.batch_size)
  train = build.make_train_step(config, build.make_loss(net), spe)
  training = _make_batches(config, dataset, spe)

  def start() -> mq_jax.State:
    first = jax.jit(training.get)(training.split, training.orders(0), 0, 0)
    return train.init(jax.random.key(config.seed), params, batch_stats, first)

  return Loop(
    steps_per_epoch=spe,
    train=train,
    start=start,
    run=_make_run(train.step_fn, training, spe),
    evaluate=_make_evaluate(config, dataset, net),
  )


def _pixels(config: ConfigDict, dataset: data.Dataset) -> dict[str, Any]:
  """How images are normalised, in training and in the test."""
  return {
    'mean': dataset.mean,
    'std': dataset.std,
    'dtype': build.DTYPES[config.dtype],
  }


def _make_batches(
  config: ConfigDict, dataset: data.Dataset, spe: int
) -> _Batches:
  size = len(dataset.train_labels)
  pixels = _pixels(config, dataset)

  @jax.jit
  def orders(epoch: Array) -> Array:
    return jnp.stack(
      [
        batches.epoch_order(config.seed, epoch + later, size)
        for later in (0, 1)
      ]
    )

  def get(
    split: batches.Split, orders: Array, first: Any, count: Any
  ) -> dict[str, Array]:
    epoch = count // spe
    return batches.train_batch(
      split,
      orders[epoch - first],
      count % spe,
      config.batch_size,
      seed=config.seed,
      epoch=epoch,
      flip=dataset.flip,
      **pixels,
    )

  split = batches.to_device(dataset.train_images, dataset.train_labels)
  return _Batches(split, orders, get)


def _make_run(step_fn: Any, training: _Batches, spe: int) -> Run:
  """A chunk of steps within one epoch."""

  def one(carry: Carry, split: batches.Split, orders: Array) -> Carry:
    state, totals = carry
    # The last step of an epoch is the only one whose batch is of the next.
    epoch = state.step // spe
    batch = training.get(split, orders, epoch, state.step + 1)
    state, metrics = step_fn(state, batch)
    return state, Totals(
      totals.steps + 1,
      totals.loss + metrics['loss'],
      totals.accuracy + metrics['accuracy'],
      metrics['finite'],
    )

  def chunk(
    carry: Carry, split: batches.Split, orders: Array, steps: Array
  ) -> Carry:
    return lax.while_loop(
      lambda carry: (carry[1].steps < steps) & carry[1].finite,
      lambda carry: one(carry, split, orders),
      carry,
    )

  jitted_one = jax.jit(one, donate_argnums=0)
  jitted_chunk = jax.jit(chunk, donate_argnums=0)

  def run(state: mq_jax.State, first: int, steps: int) -> Carry:
    if first // spe != (first + steps - 1) // spe:
      raise ValueError(f'{steps} steps from {first} leave their epoch.')
    orders = training.orders(first // spe)
    carry = state, _no_totals()
    if jax.default_backend() != 'cpu':
      return jitted_chunk(carry, training.split, orders, steps)
    # XLA's CPU compiler runs a convolution within a loop some forty times
    # slower than one outside, so the loop is Python's here.
    while carry[1].steps < steps and carry[1].finite:
      carry = jitted_one(carry, training.split, orders)
    return carry

  return run


def _make_evaluate(
  config: ConfigDict, dataset: data.Dataset, net: Any
) -> Evaluate:
  test = batches.to_device(dataset.test_images, dataset.test_labels)
  evaluate_batch = build.make_evaluation(net)
  pixels = _pixels(config, dataset)
  size = len(dataset.test_labels)

  @jax.jit
  def add_batch(
    total: Any, test: batches.Split, index: Array, params: Any, batch_stats: Any
  ) -> Any:
    batch = batches.eval_batch(test, index, EVAL_BATCH, **pixels)
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
