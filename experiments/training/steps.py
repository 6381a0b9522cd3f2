"""The compiled steps of a run: the first state, a chunk of steps, the test.

Step k (from 0) applies the gradients of batch k and computes those of batch
k + 1, counted over all epochs; batch 0 belongs to the first state.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses
from experiments.build.accumulation import accumulated
from experiments.build.estimators import ESTIMATORS
from experiments.build.parts import make_parts
from experiments.common import parallel
from experiments.common.placement import Placement, make_placement
from experiments.data.pipeline import Batch, Pipeline, TracedBatches
from experiments.training import evaluation

Array = jax.Array


class Totals(NamedTuple):
  """Sums over the steps of a chunk, with a leading axis of trials.

  A chunk may end early after a step that is not finite.

  Attributes:
    steps: Number of steps up to the first one that is not finite, int32.
    loss: Sum of their losses.
    accuracy: Sum of their training accuracies, each from 0 to 1.
    phi_grad_norm: Sum of the norms of φ's gradients.
    finite: True if all losses and gradients were finite.
  """

  steps: Array
  loss: Array
  accuracy: Array
  phi_grad_norm: Array
  finite: Array


Carry = tuple[mq_jax.State, Totals]
RunChunk = Callable[[mq_jax.State, int, int], Carry]


class Steps(NamedTuple):
  """The compiled steps of a run. States have a leading axis of trials.

  Attributes:
    placement: Where states are on the devices.
    steps_per_epoch: Number of steps per epoch.
    seeds: Seed of each trial.
    relaxed: True if the loss sees other weights than the quantized ones.
    learned: True if the estimator has parameters φ.
    train: Train step of one trial.
    start: `() -> state` before the first step. If the run has no epochs, its
      quantizers have the variables that the method chooses on training images.
    state_shape: `() -> state` of shapes, types and shardings, without computing
      one.
    run: `(state, first step, steps) -> (state, Totals)`; donates the state.
    evaluate: `(params, batch_stats, between=…) -> scores` of one trial on the
      whole test set (`evaluation.make_evaluate`).
    recalibrate: `(params, batch_stats, between=…) -> batch_stats` of one trial,
      measured with these parameters if the configuration asks for it.
  """

  placement: Placement
  steps_per_epoch: int
  seeds: tuple[int, ...]
  relaxed: bool
  learned: bool
  train: mq_jax.TrainStep
  start: Callable[[], mq_jax.State]
  state_shape: Callable[[], mq_jax.State]
  run: RunChunk
  evaluate: evaluation.Evaluate
  recalibrate: evaluation.Recalibrate


def make_steps(
  config: ConfigDict,
  pipeline: Pipeline,
  net: Any,
  params: Any,
  batch_stats: Any,
) -> Steps:
  """Compiles the steps of one configuration.

  Args:
    config: A checked configuration.
    pipeline: Data of the run.
    net: Linen module.
    params: Weights that all trials start from.
    batch_stats: Batch statistics that all trials start from.
  """
  seeds = tuple(range(config.seed, config.seed + config.trials))
  mesh = parallel.data_mesh(config.mesh_data)
  placement = make_placement(mesh, fsdp=config.fsdp)
  params, batch_stats = parallel.shared((params, batch_stats))
  losses_of = losses.LOSSES[config.loss]
  parts = make_parts(config, pipeline.steps_per_epoch)
  train = mq_jax.make_train_step(
    accumulated(losses.make_loss(net, losses_of), config.accumulate),
    **parts.step_arguments,
  )

  def step_at(
    state: mq_jax.State, batch: Batch, rate: Array
  ) -> tuple[mq_jax.State, Any]:
    # α is an argument of the compiled chunk, so that all values of
    # config.learning_rate share one program, except for a method whose scales
    # are trained by the optimizer of the weights.
    return train.step_fn(state, batch, rate * parts.relative_rate(state.step))

  def first_states(batches: Sequence[Batch]) -> mq_jax.State:
    arguments = [
      (parallel.shared(jax.random.key(seed)), params, batch_stats, batch)
      for seed, batch in zip(seeds, batches, strict=True)
    ]
    init = train.init
    if config.fsdp:
      # No device ever has the whole state.
      shapes = placement.shapes(
        jax.eval_shape(init, *arguments[0]), trial_axes=0
      )
      shardings = jax.tree.map(lambda shape: shape.sharding, shapes)
      init = jax.jit(init, out_shardings=shardings)
      # XLA would also choose where an argument without a placement is.
      arguments = [
        (*parallel.replicated(of_trial[:3], mesh), of_trial[3])
        for of_trial in arguments
      ]
    return parallel.stack([init(*of_trial) for of_trial in arguments])

  def start() -> mq_jax.State:
    state = first_states([pipeline.train(seed, 0) for seed in seeds])
    return placement.put(state if config.epochs else chosen(state))

  def chosen(state: mq_jax.State) -> mq_jax.State:
    """Returns the state of a run that trains nothing."""
    # The first loss changed the statistics.
    statistics = parallel.stack([batch_stats] * len(seeds))
    state = state._replace(model_state=statistics)
    if parts.after_training is None:
      return state
    count = min(parts.after_training.images, pipeline.calibrate.size)
    batch = pipeline.calibrate.batch(0, count)
    sums = losses.make_evaluation(net, losses_of)
    variables = parts.after_training.choose(
      lambda params, batch: sums(params, batch_stats, batch)['loss'] / count,
      parallel.pick(state.params, 0),  # All trials have the same weights.
      parts.rules,
      batch,
    )
    return state._replace(variables=parallel.stack([variables] * len(seeds)))

  return Steps(
    placement=placement,
    steps_per_epoch=pipeline.steps_per_epoch,
    seeds=seeds,
    relaxed=parts.relaxed,
    learned=ESTIMATORS[config.estimator].learned,
    train=train,
    start=start,
    # Only the shapes of batches count here; a pipeline cannot be traced.
    state_shape=lambda: placement.shapes(
      jax.eval_shape(first_states, [pipeline.train(seeds[0], 0)] * len(seeds))
    ),
    run=_make_run(
      step_at,
      np.float32(config.learning_rate),
      pipeline,
      seeds,
      mesh,
      placement,
    ),
    evaluate=evaluation.make_evaluate(pipeline.evaluate, net, losses_of),
    recalibrate=evaluation.make_recalibrate(
      pipeline.calibrate, net, config.recalibrate
    ),
  )


def _make_run(
  step_at: Callable[[mq_jax.State, Batch, Array], tuple[mq_jax.State, Any]],
  rate: np.float32,
  pipeline: Pipeline,
  seeds: tuple[int, ...],
  mesh: Mesh,
  placement: Placement,
) -> RunChunk:
  """Makes the function that runs a chunk of steps within one epoch.

  Args:
    step_at: Step of one trial at a rate.
    rate: α at the first step of the run.
    pipeline: Data of the run.
    seeds: Seed of each trial.
    mesh: Devices of the run.
    placement: Where states are on the devices.
  """

  def advance(carry: Carry, batch: Batch, rate: Array) -> Carry:
    state, totals = carry
    state, metrics = step_at(state, batch, rate)
    return state, Totals(
      totals.steps + totals.finite.astype(jnp.int32),
      totals.loss + metrics['loss'].astype(jnp.float32),
      totals.accuracy + metrics['accuracy'].astype(jnp.float32),
      totals.phi_grad_norm + metrics['phi_grad_norm'].astype(jnp.float32),
      totals.finite & metrics['finite'],
    )

  # On CPU, a convolution in a loop of XLA is about forty times slower than in a
  # loop of Python. XLA would also compute the batch again for each reader.
  if pipeline.traced is None or jax.default_backend() == 'cpu':
    run_chunk = _host_loop(advance, pipeline, seeds, placement)
  else:
    run_chunk = _device_loop(
      advance, pipeline.traced, pipeline.steps_per_epoch, seeds, mesh, placement
    )

  def run(state: mq_jax.State, first: int, steps: int) -> Carry:
    epoch = first // pipeline.steps_per_epoch
    if epoch != (first + steps - 1) // pipeline.steps_per_epoch:
      raise ValueError(
        f'{steps} steps from step {first} on are not within one epoch.'
      )
    count = len(seeds)
    # Each row has a buffer of its own, because all of them are donated.
    loss, accuracy, norm = jnp.zeros((3, count), jnp.float32)
    no_steps, finite = jnp.zeros(count, jnp.int32), jnp.ones(count, bool)
    totals = Totals(no_steps, loss, accuracy, norm, finite)
    carry = placement.put(state), parallel.replicated(totals, mesh)
    rates = parallel.replicated(rate, mesh)
    # An implicit transfer would make the host wait for the device, or the
    # device for the host.
    with jax.transfer_guard('disallow'):
      return run_chunk(carry, rates, first, steps)

  return run


def _host_loop(
  advance: Callable[[Carry, Batch, Array], Carry],
  pipeline: Pipeline,
  seeds: tuple[int, ...],
  placement: Placement,
) -> Callable[[Carry, Array, int, int], Carry]:
  """Runs steps one by one; trials take turns."""
  on_cpu = jax.default_backend() == 'cpu'

  def keep(carry: Carry) -> Carry:
    return placement.keep(carry[0], trial_axes=0), carry[1]

  jitted_advance = jax.jit(
    lambda carry, batch, rate: keep(advance(carry, batch, rate)),
    donate_argnums=0,
  )
  split = jax.jit(
    lambda carry: [keep(part) for part in parallel.split(carry, len(seeds))]
  )

  @jax.jit
  def stack(carries: Sequence[Carry]) -> Carry:
    state, totals = parallel.stack(carries)
    return placement.keep(state), totals

  def run_chunk(carry: Carry, rate: Array, first: int, steps: int) -> Carry:
    carries = split(carry)
    for leaf in jax.tree.leaves(carry):
      leaf.delete()
    for step in range(first, first + steps):
      for i, seed in enumerate(seeds):
        # A pipeline may move its batches to the devices in any way.
        with jax.transfer_guard('allow'):
          batch = pipeline.train(seed, step + 1)
        carries[i] = jitted_advance(carries[i], batch, rate)
      # Reading the flag would make an accelerator wait for the next batch.
      if on_cpu and not all(totals.finite for _, totals in carries):
        break
    return stack(carries)

  return run_chunk


def _device_loop(
  advance: Callable[[Carry, Batch, Array], Carry],
  traced: TracedBatches,
  steps_per_epoch: int,
  seeds: tuple[int, ...],
  mesh: Mesh,
  placement: Placement,
) -> Callable[[Carry, Array, int, int], Carry]:
  """Runs a chunk as one program; trials are a batch axis."""

  def step_of_trial(
    trial: tuple[mq_jax.State, Totals, Any], shared: Any
  ) -> Carry:
    state, totals, context = trial
    images, rate = shared
    batch = traced.batch(images, context, state.step + 1)
    return advance((state, totals), batch, rate)

  step_of_trials = parallel.over_trials(step_of_trial, len(seeds))

  def next_carry(carry: Carry, shared: Any, contexts: Any) -> Carry:
    state, totals = step_of_trials((*carry, contexts), shared)
    return placement.keep(state), totals

  def chunk(carry: Carry, shared: Any, contexts: Any, steps: Array) -> Carry:
    return lax.while_loop(
      lambda carry: (carry[1].steps[0] < steps) & jnp.all(carry[1].finite),
      lambda carry: next_carry(carry, shared, contexts),
      carry,
    )

  jitted_chunk = jax.jit(chunk, donate_argnums=0)
  make_contexts = jax.jit(jax.vmap(traced.context, in_axes=(0, None)))

  def run_chunk(carry: Carry, rate: Array, first: int, steps: int) -> Carry:
    seed_array, epoch, limit = parallel.replicated(
      (
        np.asarray(seeds, np.int32),
        np.int32(first // steps_per_epoch),
        np.int32(steps),
      ),
      mesh,
    )
    contexts = make_contexts(seed_array, epoch)
    return jitted_chunk(carry, (traced.shared, rate), contexts, limit)

  return run_chunk
