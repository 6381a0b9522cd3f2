"""The compiled parts of a run: its first state, a chunk of steps, the test.

Step k (from 0) applies the gradients of batch k and takes those of batch k + 1,
counted over all epochs; batch 0 belongs to the first state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses, train_step
from experiments.common import parallel as sharding
from experiments.common import parallel as trials
from experiments.data import batches, datasets
from experiments.training import evaluation

Array = jax.Array


class Totals(NamedTuple):
  """Sums over the steps of a chunk, which ends early where one is not finite.

  All have a leading axis of trials.

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
Own = tuple[mq_jax.State, Totals, Array, Array]  # and the seed, the orders


def _no_totals(trials: int) -> Totals:
  return Totals(
    steps=jnp.zeros(trials, jnp.int32),
    loss=jnp.zeros(trials, jnp.float32),
    accuracy=jnp.zeros(trials, jnp.float32),
    finite=jnp.ones(trials, bool),
  )


class Loop(NamedTuple):
  """The compiled parts of a run. States have a leading axis of trials.

  Attributes:
    steps_per_epoch: Full batches in the training set, or as many of them as
      the configuration takes.
    seeds: One a trial.
    train: The train step, of one trial.
    start: `() -> state` before the first step.
    run: `(state, first step, steps) -> (state, Totals)`; donates the state.
    evaluate: `(params, batch_stats) -> (loss, accuracy in percent)` of one
      trial on the whole test set.
    recalibrate: `(params, batch_stats) -> batch_stats` of one trial, taken
      anew with these parameters if the configuration has it so.
  """

  steps_per_epoch: int
  seeds: tuple[int, ...]
  train: mq_jax.TrainStep
  start: Callable[[], mq_jax.State]
  run: Run
  evaluate: evaluation.Evaluate
  recalibrate: evaluation.Recalibrate


class _Batches(NamedTuple):
  """The training batches of a seed, counted over all epochs.

  Attributes:
    split: Images and labels on the device.
    orders: `(seed, epoch) -> orders` of that epoch and of the next.
    get: `(split, orders, first, count, seed) -> batch`; `first` is the epoch of
      the first of the two orders.
  """

  split: batches.Split
  orders: Callable[[Any, Any], Array]
  get: Callable[[batches.Split, Array, Any, Any, Any], dict[str, Array]]


def make_loop(
  config: ConfigDict,
  dataset: datasets.Dataset,
  net: Any,
  params: Any,
  batch_stats: Any,
) -> Loop:
  """Makes the parts for one configuration.

  Args:
    config: A checked configuration.
    dataset: The data, which is moved to the devices whole.
    net: Linen module.
    params: Weights that all trials start from.
    batch_stats: Batch statistics likewise.

  Returns:
    A `Loop`.
  """
  spe = batches.steps_per_epoch(len(dataset.train_labels), config.batch_size)
  spe = min(spe, config.epoch_steps or spe)
  seeds = tuple(range(config.seed, config.seed + config.trials))
  devices = sharding.data_mesh(config.mesh_data)
  train = train_step.make_train_step(config, _loss(config, net), spe)
  training = _make_batches(config, dataset, spe, devices)
  get = jax.jit(training.get)

  def start() -> mq_jax.State:
    states = []
    for seed in seeds:
      first = get(training.split, training.orders(seed, 0), 0, 0, seed)
      key = jax.random.key(seed)
      states.append(train.init(key, params, batch_stats, first))
    return sharding.replicated(trials.stack(states), devices)

  return Loop(
    steps_per_epoch=spe,
    seeds=seeds,
    train=train,
    start=start,
    run=_make_run(train.step_fn, training, spe, seeds, devices),
    evaluate=evaluation.make_evaluate(config, dataset, net, devices),
    recalibrate=evaluation.make_recalibrate(config, dataset, net, devices),
  )


def _loss(config: ConfigDict, net: Any) -> Callable[..., Any]:
  return losses.make_loss(net, losses.LOSSES[config.loss])


def _make_batches(
  config: ConfigDict, dataset: datasets.Dataset, spe: int, devices: Mesh
) -> _Batches:
  size = len(dataset.train_labels)
  pixels = evaluation.pixels_of(config, dataset)

  @jax.jit
  def orders(seed: Array, epoch: Array) -> Array:
    return jnp.stack(
      [batches.epoch_order(seed, epoch + later, size) for later in (0, 1)]
    )

  def get(
    split: batches.Split, orders: Array, first: Any, count: Any, seed: Any
  ) -> dict[str, Array]:
    epoch = count // spe
    batch = batches.train_batch(
      split,
      orders[epoch - first],
      count % spe,
      config.batch_size,
      seed=seed,
      epoch=epoch,
      flip=dataset.flip and config.augment,
      padding=4 if config.augment else 0,
      **pixels,
    )
    return sharding.split_batch(batch, devices)

  split = batches.to_device(dataset.train_images, dataset.train_labels)
  return _Batches(sharding.replicated(split, devices), orders, get)


def _make_run(
  step_fn: Any,
  training: _Batches,
  spe: int,
  seeds: tuple[int, ...],
  devices: Mesh,
) -> Run:
  """A chunk of steps within one epoch."""

  def next_batch(
    step: Array, seed: Array, orders: Array, split: batches.Split
  ) -> dict[str, Array]:
    # The last step of an epoch is the only one whose batch is of the next.
    return training.get(split, orders, step // spe, step + 1, seed)

  def advance(carry: Carry, batch: dict[str, Array]) -> Carry:
    state, totals = carry
    state, metrics = step_fn(state, batch)
    return sharding.keep_replicated(state, devices), Totals(
      totals.steps + 1,
      totals.loss + metrics['loss'].astype(jnp.float32),
      totals.accuracy + metrics['accuracy'].astype(jnp.float32),
      metrics['finite'],
    )

  def one_trial(own: Own, split: batches.Split) -> Carry:
    state, totals, seed, orders = own
    batch = next_batch(state.step, seed, orders, split)
    return advance((state, totals), batch)

  all_trials = trials.over_trials(one_trial, len(seeds))

  def chunk(
    carry: Carry,
    split: batches.Split,
    seeds: Array,
    orders: Array,
    steps: Array,
  ) -> Carry:
    return lax.while_loop(
      lambda carry: (carry[1].steps[0] < steps) & jnp.all(carry[1].finite),
      lambda carry: all_trials((*carry, seeds, orders), split),
      carry,
    )

  jitted_chunk = jax.jit(chunk, donate_argnums=0)
  jitted_batch = jax.jit(next_batch)
  jitted_advance = jax.jit(advance, donate_argnums=0)
  split_up = jax.jit(lambda tree: trials.split(tree, len(seeds)))
  stacked = jax.jit(trials.stack)

  def in_turn(
    carry: Carry, fixed: tuple[batches.Split, Array, Array], steps: int
  ) -> Carry:
    # XLA's CPU compiler runs a convolution within a loop some forty times
    # slower than one outside, so both loops are Python's here. And it would
    # make the batch anew in everything that reads it.
    split, *own = fixed
    carries, each = split_up(carry), split_up(tuple(own))
    for leaf in jax.tree.leaves(carry):
      leaf.delete()
    for _ in range(steps):
      for i, (seed, orders) in enumerate(each):
        batch = jitted_batch(carries[i][0].step, seed, orders, split)
        carries[i] = jitted_advance(carries[i], batch)
      if not all(totals.finite for _, totals in carries):
        break
    return stacked(carries)

  seed_array = jnp.asarray(seeds, jnp.int32)
  orders_of = jax.jit(jax.vmap(training.orders, in_axes=(0, None)))

  def run(state: mq_jax.State, first: int, steps: int) -> Carry:
    if first // spe != (first + steps - 1) // spe:
      raise ValueError(f'{steps} steps from {first} leave their epoch.')
    own = seed_array, orders_of(seed_array, jnp.asarray(first // spe))
    fixed = sharding.replicated((training.split, *own), devices)
    carry = sharding.replicated((state, _no_totals(len(seeds))), devices)
    limit = sharding.replicated(jnp.asarray(steps), devices)
    # Whatever would wait for the host, or for the device, is an error here.
    with jax.transfer_guard('disallow'):
      if jax.default_backend() == 'cpu':
        return in_turn(carry, fixed, steps)
      return jitted_chunk(carry, *fixed, limit)

  return run
