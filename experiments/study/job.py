"""One job of a launched study: makes one run, and continues after a stop."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments import training
from experiments.common import runtime
from experiments.common.console import counted
from experiments.records import workdir
from experiments.study import display, plan, run
from mq_jax.files import write_atomic

# The number that submitit's local executor starts a job again for.
_LOCAL_REQUEUE = 144
_STOPPED = 128 + signal.SIGTERM
_MOST_STOPS = 3  # In a row, before the first checkpoint.


class Task(NamedTuple):
  """The task of a job. Tasks are pickled, so they contain no closures.

  Attributes:
    name: Name for the user.
    folder: Folder of the run, or of the base model.
    bases: Result of `run.base_models`; for a base model, only that model.
    missing: Function that returns the missing runs of the study; None if the
      job trains a base model.
    results: Folder of the ledger.
  """

  name: str
  folder: pathlib.Path
  bases: dict[str, ConfigDict]
  missing: Callable[[], list[plan.Job]] | None
  results: pathlib.Path

  def is_done(self) -> bool:
    """Returns True if nothing is left to do."""
    if self.missing is None:
      return all(
        workdir.is_complete(folder, config)
        for folder, config in self.bases.items()
      )
    return not self.jobs()

  def jobs(self) -> list[plan.Job]:
    """Returns the run of this job, or [] if the study does not need it now."""
    planned = self.missing() if self.missing else []
    return [job for job in planned if job.workdir == self.folder]


def run_task(task: Task) -> None:
  """Makes the run of a task; ends at once if it is done or another process's.

  SIGTERM, and the signal that warns of the time limit, save the run and put the
  job back into the queue. The job then starts again with the same task, and
  resumes. It is not put back if SLURM has already decided what becomes of it,
  or if it ends again and again before its first checkpoint.

  Raises:
    SystemExit: If the job was stopped before the run was done.
  """
  runtime.configure()
  before = _checkpoints(task)
  with _stop_signals() as received, display.open_display(1) as shown:

    def stop() -> bool:
      return bool(received)

    try:
      if task.missing is None:
        for folder, config in task.bases.items():
          run.make_base(config, pathlib.Path(folder), stop, shown)
      else:
        run.run_study(task.jobs, task.bases, task.results, stop, shown)
    except training.Stopped:
      pass
    except SystemExit as error:
      # Training defers SIGTERM itself, saves, and exits.
      if error.code != _STOPPED:
        raise
      received.append(signal.SIGTERM)
    except KeyboardInterrupt:
      sys.exit(128 + signal.SIGINT)
    has_saved = _checkpoints(task) != before
    if not received or task.is_done():
      _count_stops(task, has_saved=True)
      return
    sys.exit(_put_back(received, _count_stops(task, has_saved)))


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
  """Collects the signals to stop while the context lasts."""
  warning = _time_limit_signal()
  received: list[int] = []

  def receive(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)
    if number == warning:
      # Training knows SIGTERM: it also interrupts a test.
      signal.raise_signal(signal.SIGTERM)

  before = {
    number: signal.signal(number, receive)
    for number in (signal.SIGTERM, warning)
  }
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _time_limit_signal() -> signal.Signals:
  """Returns the signal that submitit asks SLURM for before the time limit."""
  return signal.Signals[
    'SIG' + os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')
  ]


def _checkpoints(task: Task) -> set[pathlib.Path]:
  folders = [task.folder, *map(pathlib.Path, task.bases)]
  return {
    path
    for folder in folders
    for path in (folder / workdir.CHECKPOINTS).glob('*')
  }


def _count_stops(task: Task, has_saved: bool) -> int:
  """Returns how often the job of a run has stopped without a new checkpoint.

  The count is that of stops in a row, in a file beside the folder of the run.
  It starts again after a checkpoint, and after more than `_MOST_STOPS` stops.
  """
  path = task.folder.with_name(f'{task.folder.name}.stops')
  count = 0
  if not has_saved:
    count = 1 + (int(path.read_text()) if path.exists() else 0)
  if 0 < count <= _MOST_STOPS:
    write_atomic(path, str(count).encode())
  else:
    path.unlink(missing_ok=True)
  return count


def _put_back(received: list[int], stops: int) -> int:
  """Puts this job back into the queue if it should run again.

  Args:
    received: Signals that arrived.
    stops: Result of `_count_stops`.

  Returns:
    The exit status of the job.
  """
  if os.environ.get('SUBMITIT_EXECUTOR') == 'local':
    # SIGTERM comes from the user there.
    is_limit = _time_limit_signal() in received
    return _LOCAL_REQUEUE if is_limit else _STOPPED
  job = _slurm_job()
  try:
    state = _output('squeue', '--noheader', f'--jobs={job}', '--format=%T')
  except (subprocess.SubprocessError, OSError):
    state = 'RUNNING'  # SLURM does not answer; the job was not cancelled.
  if state != 'RUNNING':
    print(
      f'SLURM reports the state {state or "none"} for job {job}, so the job'
      ' ends and is not requeued.'
    )
    return _STOPPED
  if stops > _MOST_STOPS:
    print(
      f'Job {job} has stopped {counted(stops, "time")} in a row without a new'
      ' checkpoint: give a larger timeout_min, then launch the study again.'
    )
    return _STOPPED
  print(f'Job {job} goes back into the queue.', flush=True)
  _output('scontrol', 'requeue', job)
  return _STOPPED


def _slurm_job() -> str:
  """Returns the number of this job, in the form that `scontrol` takes."""
  array = os.environ.get('SLURM_ARRAY_JOB_ID')
  if array:
    return f'{array}_{os.environ["SLURM_ARRAY_TASK_ID"]}'
  return os.environ['SLURM_JOB_ID']


def _output(*command: str) -> str:
  return subprocess.run(
    command, check=True, capture_output=True, text=True, timeout=60
  ).stdout.strip()
