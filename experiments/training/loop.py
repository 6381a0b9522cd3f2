"""The loop of a run: chunks of steps, and what happens between them.

Between two chunks come sums, an epoch's record, a checkpoint, a signal, or a
loss that is not finite.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments.common.errors import UserError
from experiments.common.parallel import pick
from experiments.records import checkpoints, run_log
from experiments.training import signals
from experiments.training.steps import Steps, Totals


class TrainingDiverged(UserError, RuntimeError):
  """A loss or a gradient was not finite."""


class Stopped(Exception):
  """A run stopped because it was asked to; its state is saved."""


class Saved(NamedTuple):
  """The state in a checkpoint, with a leading axis of trials.

  Attributes:
    state: State of the train step.
    codes: Integer codes at the end of the last epoch, from which flips are
      counted.
  """

  state: mq_jax.State
  codes: dict[str, jax.Array]


class Progress(NamedTuple):
  """The position of a run, and the sums over its epoch so far.

  Attributes:
    step: Number of updates so far.
    loss_sum: Sum of the losses of this epoch, per trial.
    accuracy_sum: Sum of the training accuracies, 0 to 1 each, per trial.
    phi_grad_norm_sum: Sum of the norms of φ's gradients, per trial.
    seconds: Time that these steps took.
  """

  step: int
  loss_sum: list[float]
  accuracy_sum: list[float]
  phi_grad_norm_sum: list[float]
  seconds: float = 0.0


def new_epoch(steps: Steps, step: int) -> Progress:
  """Returns the progress at the start of an epoch."""
  zeros = [0.0] * len(steps.seeds)
  return Progress(step, zeros, zeros, zeros)


class Outputs(NamedTuple):
  """The outputs of a run.

  Attributes:
    manager: Manager of the checkpoints.
    log: The log, metrics.jsonl.
    scalars: Writer of TensorBoard events.
    show: `progress.progress_bar`, or a replacement for it.
  """

  manager: ocp.CheckpointManager
  log: run_log.Log
  scalars: Any
  show: Callable[..., Any]


def never() -> bool:
  """Returns False: the run is not asked to stop."""
  return False


def run_epochs(
  config: ConfigDict,
  steps: Steps,
  saved: Saved,
  progress: Progress,
  outputs: Outputs,
  stop: Callable[[], bool] = never,
) -> mq_jax.State:
  """Runs all remaining steps; saves at intervals and when a signal comes.

  Args:
    config: A checked configuration.
    steps: Compiled steps of the run.
    saved: State to start from; it is donated.
    progress: Progress that was saved with `saved`.
    outputs: Where to write.
    stop: Called after each chunk of steps; True saves and stops the run.

  Returns:
    The last state.

  Raises:
    TrainingDiverged: If a loss or a gradient is not finite.
    KeyboardInterrupt: After Ctrl-C, once the state is saved.
    SystemExit: After SIGTERM, once the state is saved.
    Stopped: If `stop` returns True before the last step, once the state is
      saved.
  """
  per_epoch, every = steps.steps_per_epoch, config.checkpoint_every
  total = config.epochs * per_epoch
  title = f'{config.network} {config.quantizer} {config.estimator}'
  state, codes = saved
  with (
    signals.defer_signals() as signal_number,
    outputs.show(total, progress.step, title, epochs=config.epochs) as bar,
  ):
    if not total:
      record, _ = _epoch_record(steps, state, progress, codes)
      run_log.append(outputs.log, record)
    while progress.step < total:
      step = progress.step
      count = min(config.chunk, per_epoch - step % per_epoch)
      count = min(count, every - step % every)
      state, progress, finite = _advance(steps, state, progress, count)
      step = progress.step
      if not finite:
        raise TrainingDiverged(_divergence(step, outputs.manager))
      epoch, steps_in_epoch = -(-step // per_epoch), step % per_epoch
      mean_loss = statistics.fmean(progress.loss_sum)
      mean_loss /= steps_in_epoch or per_epoch
      bar.update(step, epoch=epoch, loss=mean_loss)
      if not steps_in_epoch:
        record, codes = _epoch_record(steps, state, progress, codes)
        run_log.append(outputs.log, record)
        run_log.write_scalars(outputs.scalars, record)
        bar.update(step, epoch=epoch, accuracy=record['test_accuracy'])
        progress = new_epoch(steps, step)
      number = signal_number()
      stopped = step < total and number is None and stop()
      leaves = stopped or number is not None
      if not steps_in_epoch or step % every == 0 or leaves:
        saved = Saved(state, codes)
        checkpoints.save(outputs.manager, step, saved, progress._asdict())
      if leaves:
        bar.log(
          f'Checkpoint saved at step {step}. Rerun the command to resume.'
        )
      if number is not None:
        signals.exit_by_signal(number)
      if stopped:
        raise Stopped
  return state


def _advance(
  steps: Steps, state: mq_jax.State, progress: Progress, count: int
) -> tuple[mq_jax.State, Progress, bool]:
  """Runs one chunk of steps; also returns whether it was finite."""
  began = time.perf_counter()
  state, totals = steps.run(state, progress.step, count)
  totals = jax.device_get(totals)
  progress = _added(progress, totals, time.perf_counter() - began)
  return state, progress, bool(totals.finite.all())


def _added(progress: Progress, totals: Totals, seconds: float) -> Progress:
  """Returns the progress after a chunk of steps."""

  def add(sums: list[float], more: Any) -> list[float]:
    return [a + float(b) for a, b in zip(sums, more, strict=True)]

  return Progress(
    step=progress.step + int(totals.steps[0]),
    loss_sum=add(progress.loss_sum, totals.loss),
    accuracy_sum=add(progress.accuracy_sum, totals.accuracy),
    phi_grad_norm_sum=add(progress.phi_grad_norm_sum, totals.phi_grad_norm),
    seconds=progress.seconds + seconds,
  )


def _epoch_record(
  steps: Steps,
  state: mq_jax.State,
  progress: Progress,
  codes: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the epoch's record of the log, and the codes at its end."""
  began = time.perf_counter()
  forms = {'quantized': jax.vmap(steps.train.quantized)(state)}
  if steps.parts.relaxed:
    forms['relaxed'] = jax.vmap(steps.train.forward_params)(state)
  diagnostics = jax.vmap(steps.train.diagnostics)(state, codes)
  by_trial = [
    _trial_record(
      steps, progress, i, *pick((forms, state.model_state, diagnostics), i)
    )
    for i in range(len(steps.seeds))
  ]
  record = {
    'epoch': progress.step // steps.steps_per_epoch,
    'step': progress.step,
    **means(by_trial),
    'seconds': progress.seconds,
    'test_seconds': time.perf_counter() - began,
  }
  if len(by_trial) > 1:
    record['trials'] = [
      {'seed': seed, **trial}
      for seed, trial in zip(steps.seeds, by_trial, strict=True)
    ]
  return record, jax.vmap(steps.train.codes)(state)


def _trial_record(
  steps: Steps,
  progress: Progress,
  trial: int,
  forms: dict[str, Any],
  batch_stats: Any,
  diagnostics: mq_jax.Diagnostics,
) -> dict[str, Any]:
  """Returns what one trial contributes to an epoch's record."""
  diagnostics = jax.device_get(diagnostics)
  count = steps.steps_per_epoch if progress.step else math.nan
  test_loss, test_accuracy = steps.evaluate(
    forms['quantized'], steps.recalibrate(forms['quantized'], batch_stats)
  )
  record = {
    'train_loss': progress.loss_sum[trial] / count,
    'train_accuracy': 100 * progress.accuracy_sum[trial] / count,
    'test_loss': test_loss,
    'test_accuracy': test_accuracy,
    **factors(diagnostics),
    'flipped': {path: float(x) for path, x in diagnostics.flipped.items()},
    'saturation': {
      path: float(x) for path, x in diagnostics.saturation.items()
    },
    'histogram': [
      int(sum(counts))
      for counts in zip(*diagnostics.histogram.values(), strict=True)
    ],
  }
  if steps.learned:
    record['phi_grad_norm'] = progress.phi_grad_norm_sum[trial] / count
  if 'relaxed' in forms:
    # These are the weights that the loss saw.
    record['relaxed_accuracy'] = steps.evaluate(forms['relaxed'], batch_stats)[
      1
    ]
  return record


def means(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns the mean of each number over records of the same shape."""
  if len(records) == 1:
    return records[0]
  return jax.tree.map(lambda *values: statistics.fmean(values), *records)


def factors(diagnostics: mq_jax.Diagnostics) -> dict[str, float]:
  """Returns the factors that a learned estimator multiplies with."""
  return {name: float(value) for name, value in diagnostics.factor.items()}


def _divergence(step: int, manager: ocp.CheckpointManager) -> str:
  """Returns the message about a loss or a gradient that is not finite."""
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
