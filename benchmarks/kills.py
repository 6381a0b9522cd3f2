"""Kills real training runs at random moments and compares their results.

  python -m benchmarks.kills --count 100 --json FILE

Each process runs `experiments.cifar` on scikit-learn's digits with the network
of the tests, one layer, and dies by SIGKILL. The next process continues the
run, until one finishes. A killed run is equal if its model files have the bytes
of an uninterrupted run, and its log the numbers. The command fails if a run is
not equal.
"""

import hashlib
import math
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import table
from experiments.records import run_log, workdir

CONFIG = pathlib.Path(__file__).parents[1] / 'experiments/configs/digits.py'
OVERRIDES = {
  'estimator': 'lstm_fc',
  'hidden': 4,
  'pretrain_epochs': 2,
  'epochs': 4,
  'checkpoint_every': 1,
  'chunk': 1,
}
PROGRAM = (
  'from tests.experiments import tiny; exec(tiny.program("experiments.cifar"))'
)
AFTER = 0.8  # share of the kills that come after a new checkpoint
LATE = 1.0  # longest time between a checkpoint and a kill, in seconds
EARLY = 15.0  # longest time between a start and any other kill, in seconds
# What differs between two runs of one configuration.
TIMES = ('seconds', 'test_seconds')


class KilledRun(NamedTuple):
  """A run that was killed and continued until it finished.

  Attributes:
    kills: The last finished work before each kill.
    is_equal: True if the run equals an uninterrupted run.
  """

  kills: list[str]
  is_equal: bool


def main() -> None:
  """Kills runs and prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--count', type=int, default=100, help='kills')
  options.add_argument('--seed', type=int, default=0, help='of the moments')
  args = table.parse(options, {'count': 3})
  with tempfile.TemporaryDirectory() as folder:
    runs = _runs(pathlib.Path(folder), args.count, random.Random(args.seed))
  table.show('Runs that were killed', rows(runs), args)
  check_equal(runs)


def _runs(
  folder: pathlib.Path, count: int, rng: random.Random
) -> list[KilledRun]:
  """Runs until `count` kills have happened."""
  reference = folder / 'reference'
  process = _start(reference)
  _, errors = process.communicate()
  if process.returncode:
    raise SystemExit(f'The uninterrupted run failed:\n{errors}')
  wanted = _contents(reference)
  runs: list[KilledRun] = []
  while sum(len(run.kills) for run in runs) < count:
    place = folder / f'run{len(runs)}'
    kills: list[str] = []
    while (last_work := _kill(place, rng)) is not None:
      kills.append(last_work)
    runs.append(KilledRun(kills, _contents(place) == wanted))
    print(
      f'{place.name}: {len(kills)} kills, equal: {runs[-1].is_equal}',
      flush=True,
    )
  return runs


def rows(runs: Sequence[KilledRun]) -> list[dict[str, Any]]:
  """Returns a row per last finished work: all kills, those of equal runs."""
  names = sorted({name for run in runs for name in run.kills})
  return [
    {
      'last finished work': name,
      'kills': sum(run.kills.count(name) for run in runs),
      'of runs that are equal': sum(
        run.kills.count(name) for run in runs if run.is_equal
      ),
    }
    for name in names
  ]


def check_equal(runs: Sequence[KilledRun]) -> None:
  """Raises `SystemExit` if a run differs from an uninterrupted run."""
  if different := sum(not run.is_equal for run in runs):
    raise SystemExit(
      f'{different} of {len(runs)} runs differ from an uninterrupted run.'
    )


def _start(run: pathlib.Path) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [
      *(sys.executable, '-c', PROGRAM),
      *(f'--config={CONFIG}', f'--workdir={run}'),
      *(f'--config.{key}={value}' for key, value in OVERRIDES.items()),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _kill(run: pathlib.Path, rng: random.Random) -> str | None:
  """Kills a run at a random moment; returns its last work.

  Most processes are killed shortly after a new checkpoint, so that the run
  makes progress, and some before.

  Args:
    run: Folder of the run.
    rng: Generator of the moment.

  Returns:
    The last work on disk, or None if the run finished before the kill.

  Raises:
    SystemExit: If the run fails.
  """
  before, process = _checkpoints(run), _start(run)
  deadline = math.inf if rng.random() < AFTER else rng.uniform(0, EARLY)
  started = time.monotonic()
  while process.poll() is None and _checkpoints(run) == before:
    if time.monotonic() - started > deadline:
      break
    time.sleep(0.01)
  else:
    time.sleep(rng.uniform(0, LATE))
  process.kill()
  _, errors = process.communicate()
  if process.returncode == -signal.SIGKILL:
    return _last_work(run)
  if process.returncode:
    raise SystemExit(f'A killed run does not continue:\n{errors}')
  return None


def _checkpoints(run: pathlib.Path) -> set[pathlib.Path]:
  """Returns the complete checkpoints of the run and of its base model."""
  return {
    path
    for part in (run, run / workdir.BASE_RUN)
    for path in (part / workdir.CHECKPOINTS).glob('*')
    if path.name.isdigit()
  }


def _last_work(run: pathlib.Path) -> str:
  parents = {path.parents[1] for path in _checkpoints(run)}
  if run in parents:
    return 'a checkpoint of the run'
  return 'a checkpoint of the base model' if parents else 'none'


def _contents(run: pathlib.Path) -> dict[str, Any]:
  """Returns digests of the model files, and the log without its times."""
  models = {
    str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(run.rglob('*.safetensors'))
  }
  log = [
    {key: value for key, value in record.items() if key not in TIMES}
    for record in run_log.read_log(run / workdir.LOG)[1]
  ]
  return {'models': models, 'log': log}


if __name__ == '__main__':
  main()
