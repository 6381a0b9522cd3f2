"""The compiled steps of a run: the first state, a chunk of steps, the test.

Step k (from 0) applies the gradients of batch k and computes those of batch
k + 1, counted over all epochs; batch 0 belongs to the first state.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses
from experiments.build.accumulation import accumulated
from experiments.build.estimators import ESTIMATORS
from experiments.build.parts import make_parts
from experiments.common import parallel
from experiments.common.placement import Placement, make_placement
from experiments.data.pipeline import Batch, Pipeline
from experiments.training import evaluation
from experiments.training.chunk import Inputs, RunChunk, make_run
from experiments.training.teacher import make_teacher

Array = jax.Array


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
  teacher = make_teacher(config, len(pipeline.classes), params, batch_stats)
  loss_fn = losses.make_loss(net, losses_of, teacher.distillation)
  train = mq_jax.make_train_step(
    accumulated(loss_fn, config.accumulate), **parts.step_arguments
  )

  def step_at(
    state: mq_jax.State, batch: Batch, inputs: Inputs
  ) -> tuple[mq_jax.State, Any]:
    rate, variables = inputs
    batch = teacher.add_logits(variables, batch)
    # α is an argument of the compiled chunk, so that all values of
    # config.learning_rate share one program, except for a method whose scales
    # are trained by the optimizer of the weights.
    return train.step_fn(state, batch, rate * parts.relative_rate(state.step))

  def first_states(batches: Sequence[Batch]) -> mq_jax.State:
    with_logits = [teacher.add_logits(teacher.variables, b) for b in batches]
    arguments = [
      (parallel.shared(jax.random.key(seed)), params, batch_stats, batch)
      for seed, batch in zip(seeds, with_logits, strict=True)
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
    run=make_run(
      step_at,
      Inputs(np.float32(config.learning_rate), teacher.variables),
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
