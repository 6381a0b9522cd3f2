"""The ledger results/: one JSONL file per run, the source of all tables.

  python -m experiments.records.ledger --workdir=runs/mine --name=resnet20-mine

copies the metrics.jsonl of a run into the ledger. The ledger keeps only the
name of each file and folder, because their places differ between machines.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.build import fingerprint
from experiments.common import sealed
from experiments.common.errors import (
  InvalidError,
  MissingError,
  exit_on_user_error,
)
from experiments.records import model_file, run_log
from experiments.records.entry import check_complete
from experiments.records.workdir import LOG
from mq_jax.files import write_atomic

RESULTS = 'results'


class TakenError(InvalidError):
  """The ledger has an entry of this name that belongs to another run.

  Attributes:
    digest: Text that is unique to the new run. A name that ends in it is free.
  """

  def __init__(self, path: pathlib.Path, header: dict[str, Any]) -> None:
    super().__init__(
      f'{path} is the entry of another run. Use another name, or delete the'
      ' file.'
    )
    text = json.dumps([header['config'], header['date']], sort_keys=True)
    self.digest = hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Run:
  """An entry of the ledger.

  Attributes:
    name: Name of the file, without the suffix.
    header: First line: config, device, versions, commit, and `start`, the
      measurements before training.
    records: One dict per epoch.
  """

  name: str
  header: dict[str, Any]
  records: list[dict[str, Any]]
  _identities: dict[frozenset[str], str] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  def identity(self, without: frozenset[str] = frozenset()) -> str:
    """Returns `fingerprint.identity` of the configuration, computed once."""
    if without not in self._identities:
      self._identities[without] = fingerprint.identity(
        self.header['config'], without=without
      )
    return self._identities[without]


def add(
  workdir: str | pathlib.Path,
  results: str | pathlib.Path,
  name: str,
  *,
  diverged: str = '',
) -> pathlib.Path:
  """Copies a run into the ledger, completely or not at all.

  Args:
    workdir: Folder of the run.
    results: Folder of the ledger; created if missing.
    name: Name of the entry.
    diverged: Reason why the run diverged; empty if it did not.

  Returns:
    The path of the new file.

  Raises:
    MissingError: If `workdir` has no metrics.jsonl.
    InvalidError: If the run did not reach its last epoch and did not diverge,
      or its log is damaged.
    TakenError: If an entry of this name belongs to another run.
  """
  log = pathlib.Path(workdir) / LOG
  if not log.exists():
    raise MissingError(f'{log} is missing. Give the folder of a run.')
  header, records = run_log.read_log(log)
  header = without_folders(header)
  epochs = header['config']['epochs']
  done = records[-1]['epoch'] if records else 0
  if diverged:
    # Without this number, a file that has lost its end would look complete.
    header |= {'diverged': diverged, 'records': len(records)}
  elif not records or done < epochs:
    raise InvalidError(
      f'{workdir} has {done} of {epochs} epochs. Finish the run before adding'
      ' it to the ledger.'
    )
  check_complete(log, header, records)
  path = pathlib.Path(results) / f'{name}.jsonl'
  if path.exists():
    old, _ = run_log.read_log(path)
    if any(old[key] != header[key] for key in ('config', 'date')):
      raise TakenError(path, header)
  sealed_header = sealed.seal(header, records)
  write_atomic(path, run_log.to_lines((sealed_header, *records)))
  return path


def without_folders(header: dict[str, Any]) -> dict[str, Any]:
  """Returns a header whose configuration names files without their folders."""
  return header | {'config': fingerprint.without_folders(header['config'])}


def seeds(run: Run) -> list[int]:
  """Returns the seeds of a run, in the order of its trials."""
  config = run.header['config']
  first: int = config['seed']
  return list(range(first, first + config.get('trials', 1)))


def from_base(runs: Sequence[Run], path: pathlib.Path) -> list[Run]:
  """Returns the runs from the base model in a file, by its contents.

  Older runs have no digest, and a file may be missing, before the base model
  exists or on another machine: such runs count.
  """
  path = path.expanduser()
  if not (
    path.is_file() and any('base' in run.header['start'] for run in runs)
  ):
    return list(runs)
  known = {'', *model_file.digests(path)}
  return [run for run in runs if run.header['start'].get('base', '') in known]


def trials(run: Run) -> dict[int, list[dict[str, Any]]]:
  """Returns the records of each trial of a run, one per epoch, by seed."""
  return {
    seed: [
      {k: v for k, v in record.items() if k != 'trials'}
      | record.get('trials', [{}])[index]
      for record in run.records
    ]
    for index, seed in enumerate(seeds(run))
  }


def read(results: str | pathlib.Path = RESULTS, names: str = '*') -> list[Run]:
  """Returns the entries of the ledger, sorted by name.

  Args:
    results: Folder of the ledger.
    names: Pattern of their names, such as 'table1-*'.

  Raises:
    InvalidError: If an entry is incomplete or damaged; the message names it.
  """
  runs = []
  for path in sorted(pathlib.Path(results).glob(f'{names}.jsonl')):
    header, records = run_log.read_log(path, ended=True)
    # Its message says more than that of the digest.
    check_complete(path, header, records)
    header = sealed.unseal(path, header, records)
    runs.append(Run(path.stem, header, records))
  return runs


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Adds a run and prints the path of its entry."""
  arguments = flags.FLAGS
  print(add(arguments.workdir, arguments.results, arguments.name))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_string('name', None, 'Name of the entry.', required=True)
  flags.DEFINE_string('results', RESULTS, 'Folder of the ledger.')
  app.run(main)
