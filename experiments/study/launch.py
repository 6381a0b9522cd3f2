"""Launches the missing runs of a study as jobs, each once."""

import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.common import files
from experiments.common.console import counted
from experiments.common.errors import BusyError, InvalidError
from experiments.study import cluster, plan, queued, run
from experiments.study.job import Task, run_task

DEFAULT_JOBS = {cluster.LOCAL: 1, cluster.SLURM: 16}
_LOGS = 'logs'


class Options(NamedTuple):
  """How jobs are launched.

  Attributes:
    kind: `cluster.LOCAL` or `cluster.SLURM`.
    jobs: Number of jobs at a time.
    parameters: Result of `cluster.parse`.
    study: Name of the study, which becomes the name of the jobs.
    workdir: Folder of the study.
  """

  kind: str
  jobs: int
  parameters: dict[str, Any]
  study: str
  workdir: pathlib.Path


def tasks(
  planned: Callable[[], list[plan.Job]],
  bases: Mapping[str, ConfigDict],
  results: pathlib.Path,
) -> tuple[list[Task], list[Task]]:
  """Returns the jobs that no process works on: base models, then runs.

  Args:
    planned: Function that returns the missing runs; it must be picklable.
    bases: Result of `run.base_models`.
    results: Folder of the ledger.
  """
  missing = planned()
  first = [
    base_task(pathlib.Path(folder), config, results)
    for folder, config in run.used_bases(missing, bases).items()
  ]
  first = [task for task in first if not task.is_done()]
  rest = [
    Task(
      *(job.name, job.workdir, run.used_bases([job], bases), planned, results)
    )
    for job in missing
    if plan.status(job)[0] != plan.RUNNING
  ]
  return first, rest


def base_task(
  folder: pathlib.Path, config: ConfigDict, results: pathlib.Path
) -> Task:
  """Returns the job that trains a base model."""
  name = f'base {folder.name}'
  return Task(name, folder, {str(folder): config}, None, results)


def launch_slurm(
  options: Options, first: Sequence[Task], rest: Sequence[Task]
) -> None:
  """Submits the jobs that SLURM does not have yet.

  Raises:
    BusyError: If another process is submitting jobs of this study.
    InvalidError: If SLURM refuses the jobs.
    MissingError: If SLURM is not installed.
  """
  with _lock(options.workdir):
    before = queued.in_queue(options.workdir)
    after = tuple(before[t.folder].job for t in first if t.folder in before)
    new_first = [task for task in first if task.folder not in before]
    new_rest = [task for task in rest if task.folder not in before]
    after += tuple(_submit(options, new_first, 'base models', ()))
    _submit(options, new_rest, 'runs', after)
  waiting = len(first) + len(rest) - len(new_first) - len(new_rest)
  if waiting:
    print(f'{counted(waiting, "job")} of this study are already in the queue.')
  print(
    f'Logs: {options.workdir / queued.FOLDER / _LOGS}. To follow, rerun this'
    ' command with --list; to stop a job, use scancel. Rerun this command to'
    ' submit what is missing.'
  )


def _submit(
  options: Options,
  submitted: Sequence[Task],
  noun: str,
  after: tuple[str, ...],
) -> list[str]:
  """Submits tasks as one array, and returns the numbers of the jobs."""
  if not submitted:
    return []
  from submitit.core.utils import FailedJobError, FailedSubmissionError

  logs = options.workdir / queued.FOLDER / _LOGS
  executor = cluster.make_executor(
    *(options.kind, logs, options.parameters),
    jobs=options.jobs,
    name=options.study,
    after=after,
  )
  try:
    jobs = executor.map_array(run_task, submitted)
  except (FailedJobError, FailedSubmissionError) as error:
    raise InvalidError(
      f'SLURM refused the jobs: {error}. Change --launch_params, whose defaults'
      f' are {cluster.default_text()}; 0 leaves out a request.'
    ) from error
  numbers = [str(job.job_id) for job in jobs]
  queued.record(
    options.workdir,
    {t.folder: number for t, number in zip(submitted, numbers, strict=True)},
  )
  text = numbers[0]
  if len(numbers) > 1:
    text += f' to {numbers[-1]}'
  if after:
    text += f', after {", ".join(after)}'
  print(f'Submitted {noun}: {text}.', flush=True)
  return numbers


@contextlib.contextmanager
def _lock(workdir: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time submit jobs of a study."""
  folder = workdir / queued.FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / 'lock').open('w') as file:
    if not files.try_lock(file):
      raise BusyError(
        f'Another process is submitting jobs of the study in {workdir}. Rerun'
        ' the command after that process has ended.'
      )
    yield


def launch_local(
  options: Options, first: Sequence[Task], rest: Sequence[Task]
) -> None:
  """Runs jobs as processes of this machine, and waits for them.

  Base models come first. Ctrl-C or SIGTERM stops the jobs once they have saved.

  Raises:
    KeyboardInterrupt: After Ctrl-C.
    SystemExit: After SIGTERM.
  """
  logs = options.workdir / queued.FOLDER / _LOGS
  print(f'Logs: {logs}. To follow, call the command with --list.', flush=True)

  def terminate(number: int, frame: object) -> None:
    del frame
    sys.exit(128 + number)

  before = signal.signal(signal.SIGTERM, terminate)
  try:
    for group in (first, rest):
      _run_group(options, logs, group)
  finally:
    signal.signal(signal.SIGTERM, before)


def _run_group(
  options: Options, logs: pathlib.Path, group: Sequence[Task]
) -> None:
  """Runs tasks, at most `options.jobs` at a time."""
  waiting = list(reversed(group))
  running: dict[int, tuple[Task, Any]] = {}  # By the slot, which has its GPUs.
  try:
    while waiting or running:
      for slot in range(options.jobs):
        if slot in running and running[slot][1].done():
          _print_end(*running.pop(slot))
        if slot not in running and waiting:
          task = waiting.pop()
          job = _start(options, logs, slot, task)
          running[slot] = (task, job)
          print(f'Started {task.name}: process {job.job_id}.', flush=True)
      time.sleep(0.2)
  except BaseException:
    for _, job in running.values():
      # submitit's process passes the signal on to the job.
      with contextlib.suppress(ProcessLookupError):
        os.kill(int(job.job_id), signal.SIGTERM)
    print(f'Waiting for {counted(len(running), "job")} to save.', flush=True)
    while not all(job.done() for _, job in running.values()):
      time.sleep(0.2)
    raise


def _start(options: Options, logs: pathlib.Path, slot: int, task: Task) -> Any:
  executor = cluster.make_executor(
    *(options.kind, logs, options.parameters),
    jobs=options.jobs,
    name=options.study,
    gpus=cluster.slot_gpus(options.parameters, options.jobs, slot),
  )
  # Jobs ignore Ctrl-C, which a terminal sends to all processes: submitit would
  # kill them before they have saved. They get SIGTERM instead.
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    return executor.submit(run_task, task)
  finally:
    signal.signal(signal.SIGINT, before)


def _print_end(task: Task, job: Any) -> None:
  if task.is_done():
    print(f'Done: {task.name}.', flush=True)
  else:
    print(f'Not done: {task.name}. See {job.paths.stdout}', flush=True)
