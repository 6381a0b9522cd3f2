"""The training loop: chunks of steps, and the work between two chunks.

That work is to add up losses, write the record of an epoch, save a checkpoint,
react to a signal, and stop at a loss or a state that is not finite.
"""

import contextlib
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments.common import processes
from experiments.records import checkpoints, run_log, workdir
from experiments.training import signals
from experiments.training.divergence import check_finite, divergence
from experiments.training.epoch_record import epoch_record
from experiments.training.position import (
  Position,
  Saved,
  epochs_done,
  is_untested,
  start_epoch,
  with_codes,
)
from experiments.training.progress import Bar
from experiments.training.steps import Steps


class Stopped(Exception):
  """A run stopped because it was asked to; its state is saved."""


class _SignalArrived(Exception):
  """A signal arrived during a test."""


class _Outputs(NamedTuple):
  """The destinations of a run: checkpoints, log, scalars and display."""

  manager: ocp.CheckpointManager
  log: pathlib.Path
  scalars: Any
  bar: Bar


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
    _open_scalars(scalars_path, epochs_done(steps, position)) as scalars,
    signals.agreed_signals() as signal_number,
  ):
    outputs = _Outputs(manager, folder / workdir.LOG, scalars, bar)

    def between() -> None:
      # The processes of a run compute the test together, to its end.
      if not processes.are_several() and signal_number() is not None:
        raise _SignalArrived

    if not total:
      record = epoch_record(steps, saved, position)
      check_finite(saved.state, position.step, manager, record)
      _append(outputs, record)
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
      must_stop = step < total and not has_signal and processes.agreed(stop)
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
  record = epoch_record(steps, saved, position, between)
  check_finite(saved.state, position.step, outputs.manager, record)
  _append(outputs, record)
  if outputs.scalars is not None:
    run_log.write_scalars(outputs.scalars, record)
  outputs.bar.end_epoch(
    epoch=record['epoch'],
    test_loss=record['test_loss'],
    accuracy=record['test_accuracy'],
  )
  return with_codes(steps, saved.state), start_epoch(steps, position.step)


@contextlib.contextmanager
def _open_scalars(folder: pathlib.Path, epochs_done: int) -> Iterator[Any]:
  """Yields the writer of scalars; None in a process that writes no files."""
  if not processes.is_first():
    yield None
    return
  with contextlib.closing(run_log.open_scalars(folder, epochs_done)) as writer:
    yield writer


def _append(outputs: _Outputs, record: dict[str, Any]) -> None:
  processes.from_first(lambda: run_log.append(outputs.log, record))


def _remaining(steps: Steps, position: Position, total: int) -> str:
  """Returns what a rerun of a stopped run does, for the user."""
  if is_untested(steps, position):
    return 'resume with the test of this epoch'
  return 'resume' if position.step < total else 'write the model file'


def _save(
  manager: ocp.CheckpointManager, saved: Saved, position: Position
) -> None:
  """Saves a checkpoint of a finite state.

  After its test, a state is already known to be finite.
  """
  if position.step == processes.from_first(manager.latest_step):
    # The run resumed in a test. A rerun would repeat only this test.
    return
  if not position.tested:
    check_finite(saved.state, position.step, manager)
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
    raise divergence(
      'The loss, a gradient or a new weight was', position.step, manager
    )
  return Saved(state, saved.codes), position
