"""Remembers which jobs of a study SLURM has, and asks SLURM about them."""

import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from experiments.common import files
from experiments.common.errors import MissingError

FOLDER = 'launch'
_SUBMITTED = 'submitted.jsonl'
_SECONDS = 60


class Queued(NamedTuple):
  """A job that SLURM has.

  Attributes:
    job: Number of the job, such as '12_0'.
    state: State in SLURM's words, such as 'PENDING'.
  """

  job: str
  state: str


def record(workdir: pathlib.Path, jobs: Mapping[pathlib.Path, str]) -> None:
  """Records submitted jobs: folder of the run to number of the job."""
  path = workdir / FOLDER / _SUBMITTED
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [
    json.dumps({'run': str(folder.relative_to(workdir)), 'job': job}) + '\n'
    for folder, job in jobs.items()
  ]
  files.append(path, ''.join(lines).encode())


def in_queue(workdir: pathlib.Path) -> dict[pathlib.Path, Queued]:
  """Returns the jobs of a study that wait or run, by the folders of the runs.

  Raises:
    MissingError: If jobs were submitted, but SLURM does not answer.
  """
  submitted = _submitted(workdir)
  states = _states() if submitted else {}
  return {
    folder: Queued(job, states[job])
    for folder, job in submitted
    if job in states
  }


def _submitted(workdir: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
  path = workdir / FOLDER / _SUBMITTED
  if not path.exists():
    return []
  found = []
  for line in path.read_text(encoding='utf-8').splitlines():
    # A killed process may have left half a line. A job that is not recorded is
    # at worst submitted twice, and the second one ends at once.
    try:
      entry = json.loads(line)
    except json.JSONDecodeError:
      continue
    found.append((workdir / entry['run'], entry['job']))
  return found


def _states() -> dict[str, str]:
  """Returns the state of each job of this user that has not ended."""
  command = ['squeue', '--me', '--noheader', '--array', '--format=%i %T']
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=_SECONDS
    )
  except (FileNotFoundError, subprocess.TimeoutExpired) as error:
    raise MissingError(
      f'{command[0]} cannot be run or does not answer. It says which jobs of'
      ' this study are in the queue: use a machine of the cluster.'
    ) from error
  if done.returncode:
    raise MissingError(
      f'{command[0]} failed: {done.stderr.strip()}. Check the cluster, then'
      ' rerun the command.'
    )
  pairs = (line.split() for line in done.stdout.splitlines())
  return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
