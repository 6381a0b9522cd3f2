"""The steps of a run, from where it stands to its end.

What happens between two chunks of steps: sums, an epoch's record, a
checkpoint, a signal, a loss that is not finite.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments.build import methods
from experiments.common.errors import UserError
from experiments.common.parallel import pick
from experiments.records import checkpoints, run_log
from experiments.training import signals
from experiments.training.steps import Loop


class TrainingDiverged(UserError, RuntimeError):
  """A loss or a gradient was not finite."""


class Stopped(Exception):
  """A run was asked to stop; all of it is saved."""


class Saved(NamedTuple):
  """What a checkpoint holds, with a leading axis of trials.

  Attributes:
    state: Of the train step.
    codes: Integer codes at the end of the last epoch, by which flips count.
  """

  state: mq_jax.State
  codes: dict[str, jax.Array]


class Progress(NamedTuple):
  """Where a run stands, and the sums over its epoch so far.

  Attributes:
    step: Updates so far.
    loss_sum: Of the steps of this epoch, one a trial.
    accuracy_sum: Likewise, 0 to 1 each step.
    seconds: Spent in them.
  """

  step: int
  loss_sum: list[float]
  accuracy_sum: list[float]
  seconds: float = 0.0


def new_epoch(loop: Loop, step: int) -> Progress:
  """At the start of an epoch."""
  zeros = [0.0] * len(loop.seeds)
  return Progress(step, zeros, zeros)


class Outputs(NamedTuple):
  """Where a run writes.

  Attributes:
    manager: Of its checkpoints.
    log: Its run_log.jsonl.
    scalars: TensorBoard's writer.
    show: `display.progress`, or what takes its place.
  """

  manager: ocp.CheckpointManager
  log: run_log.Log
  scalars: Any
  show: Callable[..., Any]


def never() -> bool:
  """Does not ask a run to stop."""
  return False


def run_epochs(
  config: ConfigDict,
  loop: Loop,
  saved: Saved,
  progress: Progress,
  outputs: Outputs,
  stop: Callable[[], bool] = never,
) -> mq_jax.State:
  """Steps to the end; saves as it goes and when a signal comes.

  Args:
    config: A checked configuration.
    loop: The compiled parts.
    saved: Where to start; its state is donated.
    progress: As it was saved with `saved`.
    outputs: Where to write.
    stop: Asked after each chunk of steps.

  Returns:
    The last state.

  Raises:
    TrainingDiverged: If a loss or a gradient is not finite.
    KeyboardInterrupt: After Ctrl-C, once all is saved.
    SystemExit: After SIGTERM, once all is saved.
    Stopped: If `stop` says so before the last step, once all is saved.
  """
  spe, every = loop.steps_per_epoch, config.checkpoint_every
  total = config.epochs * spe
  title = f'{config.network} {config.quantizer} {config.estimator}'
  state, codes = saved
  with (
    signals.defer_signals() as signal_number,
    outputs.show(total, progress.step, title, epochs=config.epochs) as bar,
  ):
    if not total:
      record, _ = _epoch_record(config, loop, state, progress, codes)
      run_log.append(outputs.log, record)
    while progress.step < total:
      step = progress.step
      steps = min(config.chunk, spe - step % spe, every - step % every)
      state, progress, finite = _advance(loop, state, progress, steps)
      step = progress.step
      if not finite:
        raise TrainingDiverged(_divergence(step, outputs.manager))
      epoch, left = -(-step // spe), step % spe
      mean_loss = statistics.fmean(progress.loss_sum) / (left or spe)
      bar.update(step, epoch=epoch, loss=mean_loss)
      if not left:
        record, codes = _epoch_record(config, loop, state, progress, codes)
        run_log.append(outputs.log, record)
        run_log.write_scalars(outputs.scalars, record)
        bar.update(step, epoch=epoch, accuracy=record['test_accuracy'])
        progress = new_epoch(loop, step)
      number = signal_number()
      stopped = step < total and number is None and stop()
      if not left or step % every == 0 or stopped or number is not None:
        saved = Saved(state, codes)
        checkpoints.save(outputs.manager, step, saved, progress._asdict())
      if stopped or number is not None:
        bar.log(f'Saved at step {step}; the same command goes on from there.')
      if number is not None:
        signals.exit_by_signal(number)
      if stopped:
        raise Stopped
  return state


def _advance(
  loop: Loop, state: mq_jax.State, progress: Progress, steps: int
) -> tuple[mq_jax.State, Progress, bool]:
  """One chunk of steps, and whether it was finite."""
  began = time.perf_counter()
  state, totals = loop.run(state, progress.step, steps)
  totals = jax.device_get(totals)
  progress = Progress(
    step=progress.step + int(totals.steps[0]),
    loss_sum=_plus(progress.loss_sum, totals.loss),
    accuracy_sum=_plus(progress.accuracy_sum, totals.accuracy),
    seconds=progress.seconds + time.perf_counter() - began,
  )
  return state, progress, bool(totals.finite.all())


def _plus(sums: list[float], more: Any) -> list[float]:
  return [a + float(b) for a, b in zip(sums, more, strict=True)]


def _epoch_record(
  config: ConfigDict,
  loop: Loop,
  state: mq_jax.State,
  progress: Progress,
  codes: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The epoch's line of run_log.jsonl, and its codes for the next one."""
  began = time.perf_counter()
  params = jax.vmap(loop.train.quantized)(state)
  relaxed = (
    jax.vmap(loop.train.forward_params)(state)
    if methods.is_relaxed(config)
    else None
  )
  looks = jax.vmap(loop.train.diagnostics)(state, codes)
  each = [
    _trial_record(
      loop, progress, i, pick((params, state.model_state, looks), i)
    )
    | _relaxed_record(loop, *pick((relaxed, state.model_state), i))
    for i in range(len(loop.seeds))
  ]
  record = {
    'epoch': progress.step // loop.steps_per_epoch,
    'step': progress.step,
    **means(each),
    'seconds': progress.seconds,
    'test_seconds': time.perf_counter() - began,
  }
  if len(each) > 1:
    record['trials'] = [
      {'seed': seed, **trial}
      for seed, trial in zip(loop.seeds, each, strict=True)
    ]
  return record, jax.vmap(loop.train.codes)(state)


def _relaxed_record(
  loop: Loop, params: Any, batch_stats: Any
) -> dict[str, Any]:
  """What the weights that the loss saw are worth, where they are others."""
  if params is None:
    return {}
  return {'relaxed_accuracy': loop.evaluate(params, batch_stats)[1]}


def _trial_record(
  loop: Loop,
  progress: Progress,
  trial: int,
  own: tuple[Any, Any, mq_jax.Diagnostics],
) -> dict[str, Any]:
  """What one trial has to show for an epoch."""
  params, batch_stats, look = own
  look = jax.device_get(look)
  spe = loop.steps_per_epoch if progress.step else math.nan
  test_loss, test_accuracy = loop.evaluate(
    params, loop.recalibrate(params, batch_stats)
  )
  return {
    'train_loss': progress.loss_sum[trial] / spe,
    'train_accuracy': 100 * progress.accuracy_sum[trial] / spe,
    'test_loss': test_loss,
    'test_accuracy': test_accuracy,
    **factor(look),
    'flipped': {path: float(x) for path, x in look.flipped.items()},
    'saturation': {path: float(x) for path, x in look.saturation.items()},
    'histogram': [
      int(sum(counts)) for counts in zip(*look.histogram.values(), strict=True)
    ],
  }


def means(records: list[dict[str, Any]]) -> dict[str, Any]:
  """Number by number, over records of the same shape."""
  if len(records) == 1:
    return records[0]
  return jax.tree.map(lambda *values: statistics.fmean(values), *records)


def factor(look: mq_jax.Diagnostics) -> dict[str, float]:
  """The factors that a learned estimator multiplies with, as numbers."""
  return {name: float(value) for name, value in look.factor.items()}


def _divergence(step: int, manager: ocp.CheckpointManager) -> str:
  last = manager.latest_step()
  kept = (
    'There is no checkpoint yet'
    if last is None
    else f'The last good checkpoint is that of step {last} in'
    f' {manager.directory}'
  )
  return (
    f'The loss or a gradient was not finite at step {step}. {kept}. Try a'
    ' smaller config.learning_rate or config.meta_learning_rate, or'
    " config.init='identity', in a new workdir."
  )
