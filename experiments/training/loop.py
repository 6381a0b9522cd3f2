"""The training loop: chunks of steps, and the work between two chunks.

That work is to add up losses, write the record of an epoch, save a checkpoint,
react to a signal, and stop at a loss or a state that is not finite.
"""

import contextlib
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments.common import parallel
from experiments.common.errors import UserError
from experiments.records import checkpoints, run_log, workdir
from experiments.training import signals
from experiments.training.progress import Bar
from experiments.training.steps import Steps
from mq_jax.selection import named_leaves

# Parts of a state in which no number may be infinite.
_FINITE = ('params/', 'model_state/', 'phi', 'grads/')


class TrainingDiverged(UserError, RuntimeError):
  """A loss or the state of a run was not finite."""


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


def with_codes(steps: Steps, state: mq_jax.State) -> Saved:
  """Returns the state at the end of an epoch with its codes."""
  return Saved(state, jax.vmap(steps.train.codes)(state))


class _SignalArrived(Exception):
  """A signal arrived during a test."""


class _Outputs(NamedTuple):
  """The destinations of a run: checkpoints, log, scalars and display."""

  manager: ocp.CheckpointManager
  log: pathlib.Path
  scalars: Any
  bar: Bar


class Position(NamedTuple):
  """The position of a run, and the sums over its epoch so far.

  Checkpoints contain these fields by name.

  Attributes:
    step: Number of updates so far.
    loss_sum: Sum of the losses of this epoch, per trial.
    accuracy_sum: Sum of the training accuracies, 0 to 1 each, per trial.
    phi_grad_norm_sum: Sum of the norms of φ's gradients, per trial.
    seconds: Duration of these steps.
    tested: No step has run since the last test.
  """

  step: int
  loss_sum: list[float]
  accuracy_sum: list[float]
  phi_grad_norm_sum: list[float]
  seconds: float = 0.0
  tested: bool = True


def restored_position(progress: Mapping[str, Any]) -> Position:
  """Returns the position in a checkpoint.

  Args:
    progress: Fields of a `Position`. Earlier versions saved no `tested`.
  """
  return Position(**{'tested': progress['seconds'] == 0, **progress})


def start_epoch(steps: Steps, step: int) -> Position:
  """Returns the position at the start of an epoch."""
  zeros = [0.0] * len(steps.seeds)
  return Position(step, zeros, zeros, zeros)


def is_untested(steps: Steps, position: Position) -> bool:
  """Returns True at the end of an epoch that is trained but not tested."""
  return position.step % steps.steps_per_epoch == 0 and not position.tested


def epochs_done(steps: Steps, position: Position) -> int:
  """Returns the number of epochs that are trained and tested."""
  epochs = position.step // steps.steps_per_epoch
  return epochs - is_untested(steps, position)


def run_epochs(
  config: ConfigDict,
  folder: pathlib.Path,
  steps: Steps,
  saved: Saved,
  position: Position,
  manager: ocp.CheckpointManager,
  stop: Callable[[], bool],
  bar: Bar,
) -> mq_jax.State:
  """Runs all remaining steps; saves at intervals and when a signal arrives.

  Args:
    config: A checked configuration.
    folder: Folder of the run, where `run_log.start_log` has started the log.
    steps: Compiled steps of the run.
    saved: State to start from; it is donated.
    position: Position that was saved with `saved`.
    manager: Manager of the checkpoints.
    stop: Called after each chunk of steps; True saves and stops the run.
    bar: Display of the progress.

  Returns:
    The last state.

  Raises:
    TrainingDiverged: If a loss, a gradient, the state or a test loss is not
      finite. No record and no checkpoint of that step is written.
    KeyboardInterrupt: After Ctrl-C, once the state is saved.
    SystemExit: After SIGTERM, once the state is saved.
    Stopped: If `stop` returns True before the last step, once the state is
      saved.
  """
  per_epoch, every = steps.steps_per_epoch, config.checkpoint_every
  total = config.epochs * per_epoch
  scalars_path = folder / workdir.SCALARS
  with (
    contextlib.closing(
      run_log.open_scalars(scalars_path, epochs_done(steps, position))
    ) as scalars,
    signals.defer_signals() as signal_number,
  ):
    outputs = _Outputs(manager, folder / workdir.LOG, scalars, bar)

    def between() -> None:
      if signal_number() is not None:
        raise _SignalArrived

    if not total:
      record = _epoch_record(steps, saved, position)
      _check_finite(saved.state, position.step, manager, record)
      run_log.append(outputs.log, record)
    while position.step < total or is_untested(steps, position):
      if not is_untested(steps, position):
        step = position.step
        count = min(
          config.chunk, per_epoch - step % per_epoch, every - step % every
        )
        saved, position = _run_chunk(steps, saved, position, count, manager)
      step = position.step
      is_end = step % per_epoch == 0
      mean_loss = statistics.fmean(position.loss_sum)
      mean_loss /= step % per_epoch or per_epoch
      bar.update(step, epoch=-(-step // per_epoch), loss=mean_loss)
      if is_end:
        # After a signal the epoch stays untested, and a rerun tests it.
        with contextlib.suppress(_SignalArrived):
          saved, position = _test_epoch(
            steps, saved, position, between, outputs
          )
      has_signal = signal_number() is not None
      must_stop = step < total and not has_signal and stop()
      if must_stop or has_signal or is_end or step % every == 0:
        _save(manager, saved, position)
      if must_stop or has_signal:
        bar.log(
          f'Checkpoint saved at step {step}. Rerun the command to'
          f' {_remaining(steps, position, total)}.'
        )
      if must_stop:
        raise Stopped
      if has_signal:
        break  # `defer_signals` raises an error when the context ends.
  return saved.state


def _test_epoch(
  steps: Steps,
  saved: Saved,
  position: Position,
  between: Callable[[], None],
  outputs: _Outputs,
) -> tuple[Saved, Position]:
  """Tests an epoch, writes its record, and starts the next epoch.

  `between` is called between the batches of the test. If it raises an error,
  nothing is written.
  """
  record = _epoch_record(steps, saved, position, between)
  _check_finite(saved.state, position.step, outputs.manager, record)
  run_log.append(outputs.log, record)
  run_log.write_scalars(outputs.scalars, record)
  outputs.bar.end_epoch(
    epoch=record['epoch'],
    test_loss=record['test_loss'],
    accuracy=record['test_accuracy'],
  )
  return with_codes(steps, saved.state), start_epoch(steps, position.step)


def _remaining(steps: Steps, position: Position, total: int) -> str:
  """Returns what a rerun of a stopped run does, for the user."""
  if is_untested(steps, position):
    return 'resume with the test of this epoch'
  return 'resume' if position.step < total else 'write the model file'


def _save(
  manager: ocp.CheckpointManager, saved: Saved, position: Position
) -> None:
  """Saves a checkpoint of a finite state."""
  if position.step == manager.latest_step():
    # The run resumed in a test. A rerun would repeat only this test.
    return
  _check_finite(saved.state, position.step, manager)
  checkpoints.save(manager, position.step, saved, position._asdict())


def _run_chunk(
  steps: Steps,
  saved: Saved,
  position: Position,
  count: int,
  manager: ocp.CheckpointManager,
) -> tuple[Saved, Position]:
  """Runs one chunk of `count` steps; raises an error if it was not finite."""
  began = time.perf_counter()
  state, totals = steps.run(saved.state, position.step, count)
  totals = jax.device_get(totals)

  def add(sums: list[float], more: Any) -> list[float]:
    return [a + float(b) for a, b in zip(sums, more, strict=True)]

  position = Position(
    step=position.step + int(totals.steps.min()),
    loss_sum=add(position.loss_sum, totals.loss),
    accuracy_sum=add(position.accuracy_sum, totals.accuracy),
    phi_grad_norm_sum=add(position.phi_grad_norm_sum, totals.phi_grad_norm),
    seconds=position.seconds + (time.perf_counter() - began),
    tested=False,
  )
  if not totals.finite.all():
    raise _divergence(
      'The loss, a gradient or a new weight was', position.step, manager
    )
  return Saved(state, saved.codes), position


def _epoch_record(
  steps: Steps,
  saved: Saved,
  position: Position,
  between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Returns the record of an epoch for the log.

  `between` is called between the batches of the test; it may raise an error.
  """
  began = time.perf_counter()
  state, codes = saved
  quantized, relaxed = jax.vmap(steps.train.quantized)(state), None
  if steps.relaxed:
    relaxed = jax.vmap(steps.train.forward_params)(state)
  diagnostics = jax.vmap(steps.train.diagnostics)(state, codes)
  trials = parallel.split(
    (quantized, relaxed, state.model_state, diagnostics), len(steps.seeds)
  )
  by_trial = [
    _trial_record(steps, position, between, i, *trial)
    for i, trial in enumerate(trials)
  ]
  record = {
    'epoch': position.step // steps.steps_per_epoch,
    'step': position.step,
    **means(by_trial),
    'seconds': position.seconds,
    'test_seconds': time.perf_counter() - began,
  }
  if len(by_trial) > 1:
    record['trials'] = [
      {'seed': seed, **trial}
      for seed, trial in zip(steps.seeds, by_trial, strict=True)
    ]
  return record


def _trial_record(
  steps: Steps,
  position: Position,
  between: Callable[[], None],
  trial: int,
  quantized: Any,
  relaxed: Any,
  batch_stats: Any,
  diagnostics: mq_jax.Diagnostics,
) -> dict[str, Any]:
  """Returns the part of an epoch's record that belongs to one trial."""
  diagnostics = jax.device_get(diagnostics)
  count = steps.steps_per_epoch if position.step else math.nan
  test_loss, test_accuracy = steps.evaluate(
    quantized, steps.recalibrate(quantized, batch_stats, between), between
  )
  record = {
    'train_loss': position.loss_sum[trial] / count,
    'train_accuracy': 100 * position.accuracy_sum[trial] / count,
    'test_loss': test_loss,
    'test_accuracy': test_accuracy,
    **diagnostics.factor,
    'flipped': diagnostics.flipped,
    'saturation': diagnostics.saturation,
    'histogram': [
      int(sum(counts))
      for counts in zip(*diagnostics.histogram.values(), strict=True)
    ],
  }
  if steps.learned:
    record['phi_grad_norm'] = position.phi_grad_norm_sum[trial] / count
  if relaxed is not None:
    # These are the weights that the loss saw.
    _, record['relaxed_accuracy'] = steps.evaluate(
      relaxed, batch_stats, between
    )
  return record


def means(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns the mean of each number over records of the same shape."""
  if len(records) == 1:
    return records[0]
  return jax.tree.map(lambda *values: statistics.fmean(values), *records)


def not_finite(state: mq_jax.State) -> str:
  """Returns the path of a leaf from which training cannot go on, or ''.

  No leaf may contain NaN. Weights, batch statistics, φ and the pending
  gradients may not be infinite either; an optimizer may use infinity.
  """
  for path, leaf in named_leaves(state._asdict()).items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      continue
    values = np.asarray(jax.device_get(leaf))
    strict = path.startswith(_FINITE)
    if not np.isfinite(values).all() and (strict or np.isnan(values).any()):
      return path
  return ''


def _check_finite(
  state: mq_jax.State,
  step: int,
  manager: ocp.CheckpointManager,
  record: Mapping[str, Any] | None = None,
) -> None:
  """Raises an error if the state, or a test loss of an epoch, is not finite."""
  if path := not_finite(state):
    raise _divergence(f'{path} was', step, manager)
  trials = record.get('trials', [record]) if record else []
  if not all(math.isfinite(trial['test_loss']) for trial in trials):
    raise _divergence('The test loss was', step, manager)


def _divergence(
  what: str, step: int, manager: ocp.CheckpointManager
) -> TrainingDiverged:
  """Returns the error about something that is not finite."""
  last, kept = manager.latest_step(), 'There is no checkpoint yet'
  if last is not None:
    kept = f'The last good checkpoint is that of step {last} in'
    kept += f' {manager.directory}'
  return TrainingDiverged(
    f'{what} not finite at step {step}. {kept}. Try a smaller'
    ' config.learning_rate or config.meta_learning_rate, or'
    " config.init='identity', in a new workdir."
  )
