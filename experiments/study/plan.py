"""Plans the runs of a study, and locks each run for one process."""

import contextlib
import hashlib
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build.base_model import have_one_start
from experiments.build.fingerprint import identity
from experiments.common import files
from experiments.common.errors import InvalidError, UnwritableError
from experiments.data.datasets import DATASETS, data_digest
from experiments.records import ledger, model_file, run_log
from experiments.records.workdir import LOG

RUNNING, BEGUN, MISSING = 'running', 'begun', 'missing'
_RUNS = 'runs'
# Name of a file that marks the folder of a run whose seeds now run alone.
_ALONE_MARK = 'one-of-these-seeds-diverged'


class Job(NamedTuple):
  """One run: a setting with some of its seeds, as one program.

  Attributes:
    name: Name of the ledger entry, and the start of the name of the folder.
    config: Complete configuration, including seed and trials.
    workdir: Folder of the run.
  """

  name: str
  config: ConfigDict
  workdir: pathlib.Path


Digests = Callable[[Mapping[str, Any]], str]


def data_digests() -> Digests:
  """Returns a `data_digest` that reads each text or folder once.

  The data may change between two plans, so each plan has its own.
  """
  known: dict[tuple[Any, ...], str] = {}

  def digest(config: Mapping[str, Any]) -> str:
    reads = DATASETS[config['dataset']].reads
    place = config['dataset'], *(config[name] for name in reads)
    if place not in known:
      known[place] = data_digest(ConfigDict(config))
    return known[place]

  return digest


def done_seeds(
  config: Mapping[str, Any],
  runs: Sequence[ledger.Run],
  digests: Digests,
) -> set[int]:
  """Returns the seeds of a configuration that are in the ledger.

  Runs from a base model with other contents do not count, nor runs on other
  data.

  Args:
    config: The configuration.
    runs: Runs in the ledger.
    digests: Result of `data_digests`.
  """
  wanted = identity(dict(config))
  path = pathlib.Path(config['pretrained'])
  matching = [run for run in runs if run.identity() == wanted]
  if any('data' in run.header['start'] for run in matching):
    data = digests(config)
    matching = [
      run
      for run in matching
      if not data or run.header['start'].get('data', data) == data
    ]
  return {
    seed
    for run in ledger.from_base(matching, path)
    for seed in ledger.seeds(run)
  }


def jobs(
  study: str,
  settings: Mapping[str, ConfigDict],
  trials: int,
  runs: Sequence[ledger.Run],
  workdir: pathlib.Path,
  *,
  together: bool,
) -> list[Job]:
  """Returns the runs that are not in the ledger yet.

  Args:
    study: Name of the study.
    settings: Name to configuration.
    trials: Number of seeds wanted of each setting: 0 … trials - 1.
    runs: Runs in the ledger.
    workdir: Folder of the study.
    together: True if the seeds of a setting run as one program, and not one by
      one. A run that has begun keeps its seeds, unless one of them diverged
      (`run_seeds_alone`).

  Returns:
    Jobs, setting by setting. A configuration with two names is in one job.

  Raises:
    InvalidError: If two settings differ only in the contents of their data or
      of their base models.
  """
  digests = data_digests()
  planned: list[Job] = []
  seen: dict[str, str] = {}
  for name, config in settings.items():
    key = identity(config.to_dict())
    if key in seen:
      _check_same_contents(study, seen[key], name, settings, digests)
      continue
    seen[key] = name
    missing = set(range(trials)) - done_seeds(config, runs, digests)
    stem = f'{study}-{name}-{config.epochs}epochs'
    # The file of a study may change. The digest distinguishes the old runs of
    # a setting from the new ones.
    digest = hashlib.sha256(key.encode()).hexdigest()[:6]
    begun, separate = _begun_groups(workdir, f'{stem}-{digest}')
    groups = [group for group in begun if set(group) & missing]
    missing -= {seed for group in groups for seed in group}
    # The trials of one program share their first weights.
    at_once = together and have_one_start(config)
    alone = missing & separate if at_once else missing
    groups += [[seed] for seed in alone] + _consecutive(missing - alone)
    for seeds in sorted(groups):
      job_config = ConfigDict(config.to_dict())
      job_config.update(seed=seeds[0], trials=len(seeds))
      text = f'seed{seeds[0]}'
      if len(seeds) > 1:
        text = f'seeds{seeds[0]}to{seeds[-1]}'
      folder = workdir / _RUNS / f'{stem}-{digest}-{text}'
      planned.append(Job(f'{stem}-{text}', job_config, folder))
  return planned


def _check_same_contents(
  study: str,
  one: str,
  other: str,
  settings: Mapping[str, ConfigDict],
  digests: Digests,
) -> None:
  """Refuses two settings of one identity that read other contents."""
  configs = [settings[name] for name in (one, other)]
  bases = {pathlib.Path(c.pretrained).expanduser() for c in configs}
  read = {
    'data': {digests(config) for config in configs} - {''},
    'base models': {model_file.digest(p) for p in bases if p.is_file()},
  }
  for what, contents in read.items():
    if len(contents) > 1:
      raise InvalidError(
        f'The settings {one} and {other} of the study {study} read different'
        f' {what} of the same name, which the ledger cannot distinguish: give'
        ' the files or folders different names, or make two studies with a'
        ' --workdir and --results each.'
      )


def missing(
  study: str,
  settings: Mapping[str, ConfigDict],
  trials: int,
  results: pathlib.Path,
  workdir: pathlib.Path,
  *,
  together: bool,
) -> list[Job]:
  """Returns `jobs` for the runs that the ledger in `results` has now."""
  runs = ledger.read(results)
  return jobs(study, settings, trials, runs, workdir, together=together)


def status(job: Job) -> tuple[str, int]:
  """Returns `(status, epochs done)` of a run that is not in the ledger."""
  log = job.workdir / LOG
  epochs = len(run_log.read_log(log)[1]) if log.exists() else 0
  if _lock(job.workdir).exists():
    with claim_run(job.workdir) as is_claimed:
      if not is_claimed:
        return RUNNING, epochs
  return (BEGUN if log.exists() else MISSING), epochs


@contextlib.contextmanager
def claim_run(workdir: pathlib.Path) -> Iterator[bool]:
  """Claims the run in a folder for this process while the context lasts.

  The operating system drops the claim when the process ends, however it ends.

  Yields:
    True, or False if another process has the run.

  Raises:
    UnwritableError: If the file system has no locks.
  """
  lock = _lock(workdir)
  lock.parent.mkdir(parents=True, exist_ok=True)
  with lock.open('w') as file:
    yield _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
  # A process that calls `status` holds the lock for an instant.
  for _ in range(10):
    try:
      if files.try_lock(file):
        return True
    except OSError as error:
      raise UnwritableError(
        f'{file.name} cannot be locked: {error.strerror}. A study divides its'
        ' runs between processes by locks: use a --workdir on a file system'
        ' that has them.'
      ) from error
    time.sleep(0.02)
  return False


def _lock(workdir: pathlib.Path) -> pathlib.Path:
  # It is beside the folder, which exists only once the run has begun.
  return workdir.with_name(f'{workdir.name}.lock')


def run_seeds_alone(job: Job) -> None:
  """Makes `jobs` plan a separate run for each seed of this run from now on."""
  (job.workdir / _ALONE_MARK).touch()


def _begun_groups(
  workdir: pathlib.Path, stem: str
) -> tuple[list[list[int]], set[int]]:
  """Returns the groups of seeds that have begun, and seeds to run alone."""
  groups: list[list[int]] = []
  alone: set[int] = set()
  pattern = re.escape(stem) + r'-seeds?(\d+)(?:to(\d+))?'
  for path in (workdir / _RUNS).glob(f'{stem}-seed*'):
    match = re.fullmatch(pattern, path.name)
    if match and (path / LOG).exists():
      first, last = match[1], match[2] or match[1]
      seeds = list(range(int(first), int(last) + 1))
      if (path / _ALONE_MARK).exists():
        alone |= set(seeds)
      else:
        groups.append(seeds)
  chosen: list[list[int]] = []
  for group in sorted(groups, key=len, reverse=True):
    if not any(set(group) & set(other) for other in chosen):
      chosen.append(group)
  return chosen, alone


def _consecutive(seeds: set[int]) -> list[list[int]]:
  groups: list[list[int]] = []
  for seed in sorted(seeds):
    if groups and groups[-1][-1] == seed - 1:
      groups[-1].append(seed)
    else:
      groups.append([seed])
  return groups
