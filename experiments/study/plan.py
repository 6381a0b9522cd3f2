"""What a study has done, what is under way, and what is missing."""

import contextlib
import fcntl
import hashlib
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build.base_model import is_from_scratch
from experiments.build.fingerprint import identity
from experiments.records import ledger, model_file, run_log
from experiments.records.workdir import log_path

RUNNING, BEGUN, MISSING = 'running', 'begun', 'missing'
_APART = 'one-of-these-seeds-diverged'


class Job(NamedTuple):
  """One run: a setting with some of its seeds, as one program.

  Attributes:
    name: Of its entry in the ledger and of its folder.
    config: The whole configuration, seed and trials included.
    workdir: Folder of the run.
  """

  name: str
  config: ConfigDict
  workdir: pathlib.Path


def done_seeds(
  config: Mapping[str, Any], runs: Sequence[ledger.Run]
) -> set[int]:
  """The seeds of a configuration, base model included, that the ledger has."""
  wanted = identity(dict(config))
  path = pathlib.Path(config['pretrained']).expanduser()
  base = model_file.digest(path) if path.is_file() else None
  return {
    seed
    for run in runs
    if identity(run.header['config']) == wanted
    # What is older than this digest, or has no base yet, goes by its name.
    and (not base or run.header['start'].get('base', base) == base)
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
  """The runs that are not in the ledger yet.

  Args:
    study: Its name.
    settings: Name to configuration.
    trials: The seeds 0 … trials - 1 are wanted of each.
    runs: Of the ledger.
    workdir: Of the study.
    together: Whether the seeds of a setting run as one program, and not one by
      one. Runs that were begun go on as they were begun, but for seeds of which
      one diverged (`take_apart`): these run alone.

  Returns:
    Jobs, setting by setting; one configuration under two names comes once.
  """
  planned: list[Job] = []
  seen: set[str] = set()
  for name, config in settings.items():
    key = identity(config.to_dict())
    if key in seen:
      continue
    seen.add(key)
    left = set(range(trials)) - done_seeds(config, runs)
    stem = f'{study}-{name}-{config.epochs}epochs'
    # A file of a study may change; what was begun before is another run.
    digest = hashlib.sha256(key.encode()).hexdigest()[:6]
    begun, apart = _begun(workdir, f'{stem}-{digest}')
    groups = [own for own in begun if set(own) & left]
    left -= {seed for own in groups for seed in own}
    # A run of several trials has one set of first weights for all of them.
    at_once = together and not is_from_scratch(config)
    alone = left & apart if at_once else left
    groups += [[seed] for seed in alone] + _consecutive(left - alone)
    for seeds in sorted(groups):
      own = ConfigDict(config.to_dict())
      own.update(seed=seeds[0], trials=len(seeds))
      text = _seeds_text(seeds)
      folder = _folder(workdir) / f'{stem}-{digest}-{text}'
      planned.append(Job(f'{stem}-{text}', own, folder))
  return planned


def status(job: Job) -> tuple[str, int]:
  """`(status, epochs done)` of a run that is not in the ledger."""
  log = log_path(job.workdir)
  epochs = len(run_log.read_log(log)[1]) if log.exists() else 0
  if _lock(job.workdir).exists():
    with claimed(job.workdir) as mine:
      if not mine:
        return RUNNING, epochs
  return (BEGUN if log.exists() else MISSING), epochs


@contextlib.contextmanager
def claimed(workdir: pathlib.Path) -> Iterator[bool]:
  """Whether the run in a folder is ours for as long as the context lasts.

  It is not if another process has it. The claim ends with the process, however
  that ends.
  """
  lock = _lock(workdir)
  lock.parent.mkdir(parents=True, exist_ok=True)
  with lock.open('w') as file:
    yield _taken(file)


def _taken(file: IO[str]) -> bool:
  # Whoever only looks (`status`) has the lock for an instant.
  for _ in range(10):
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      time.sleep(0.02)
    else:
      return True
  return False


def _lock(workdir: pathlib.Path) -> pathlib.Path:
  # Beside the folder: that it exists says that the run has begun.
  return workdir.with_name(f'{workdir.name}.lock')


def _folder(workdir: pathlib.Path) -> pathlib.Path:
  return workdir / 'runs'


def _seeds_text(seeds: Sequence[int]) -> str:
  if len(seeds) == 1:
    return f'seed{seeds[0]}'
  return f'seeds{seeds[0]}to{seeds[-1]}'


def take_apart(job: Job) -> None:
  """Lets the seeds of a run each have one of its own from now on."""
  (job.workdir / _APART).touch()


def _begun(
  workdir: pathlib.Path, stem: str
) -> tuple[list[list[int]], set[int]]:
  """Groups of seeds that stand in `workdir`, and seeds that must run alone."""
  groups: list[list[int]] = []
  apart: set[int] = set()
  for path in _folder(workdir).glob(f'{stem}-seed*'):
    match = re.fullmatch(
      re.escape(stem) + r'-(?:seed(\d+)|seeds(\d+)to(\d+))', path.name
    )
    if match and log_path(path).exists():
      first, last = match[1] or match[2], match[1] or match[3]
      seeds = list(range(int(first), int(last) + 1))
      if (path / _APART).exists():
        apart |= set(seeds)
      else:
        groups.append(seeds)
  chosen: list[list[int]] = []
  for own in sorted(groups, key=len, reverse=True):
    if not any(set(own) & set(other) for other in chosen):
      chosen.append(own)
  return chosen, apart


def _consecutive(seeds: set[int]) -> list[list[int]]:
  groups: list[list[int]] = []
  for seed in sorted(seeds):
    if groups and groups[-1][-1] == seed - 1:
      groups[-1].append(seed)
    else:
      groups.append([seed])
  return groups
