"""The ledger: results/, one JSONL file a run, from which all tables are made.

  python -m experiments.records.ledger --workdir=runs/mine --name=resnet20-mine

copies a run's metrics.jsonl there. Names of folders on one's own machine are
no result: a path in the configuration is kept by its last part alone.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from absl import app, flags

from experiments.build import fingerprint
from experiments.common.errors import InvalidError, MissingError
from experiments.records import run_log
from experiments.records.workdir import log_path

RESULTS = 'results'


class TakenError(InvalidError):
  """An entry of this name is of another run.

  Attributes:
    digest: To be added to the name; no other run has it.
  """

  def __init__(self, path: pathlib.Path, header: dict[str, Any]) -> None:
    super().__init__(
      f'{path} is the entry of another run: take another name, or delete it.'
    )
    whole = json.dumps([header['config'], header['date']], sort_keys=True)
    self.digest = hashlib.sha256(whole.encode()).hexdigest()[:8]


class Run(NamedTuple):
  """One entry of the ledger.

  Attributes:
    name: Name of its file, without the suffix.
    header: First line: config, device, versions, commit, and `start`, what was
      measured before training.
    records: One dict an epoch.
  """

  name: str
  header: dict[str, Any]
  records: list[dict[str, Any]]


def add(
  workdir: str | pathlib.Path,
  results: str | pathlib.Path,
  name: str,
  *,
  diverged: str = '',
) -> pathlib.Path:
  """Copies a run into the ledger, whole or not at all.

  Args:
    workdir: Folder of the run.
    results: Folder of the ledger; made if missing.
    name: Name of the entry.
    diverged: What stopped a run that did not come to its end; a result too.

  Returns:
    The new file.

  Raises:
    MissingError: If `workdir` has no metrics.jsonl.
    InvalidError: If the run did not reach its last epoch and did not diverge.
    TakenError: If there is an entry of this name that is of another run.
  """
  log = log_path(workdir)
  if not log.exists():
    raise MissingError(f'{log} is missing: no run stands in {workdir}.')
  header, records = run_log.read_log(log)
  config = header['config']
  done = records[-1]['epoch'] if records else 0
  if not diverged and (not records or done < config['epochs']):
    raise InvalidError(
      f'{workdir} has {done} of {config["epochs"]} epochs: let the run end'
      ' before it goes into the ledger.'
    )
  if diverged:
    header['diverged'] = diverged
  header = without_folders(header)
  config = header['config']
  path = pathlib.Path(results) / f'{name}.jsonl'
  if path.exists():
    there = run_log.read_log(path)[0]
    if (there['config'], there['date']) != (config, header['date']):
      raise TakenError(path, header)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(f'.{path.name}.new')
  new.write_text(
    ''.join(json.dumps(line) + '\n' for line in (header, *records)),
    encoding='utf-8',
  )
  new.replace(path)
  return path


def without_folders(header: dict[str, Any]) -> dict[str, Any]:
  """A header whose configuration names files, not folders of one's own."""
  config = fingerprint.without_folders(header['config'])
  return header | {'config': config}


def seeds(run: Run) -> list[int]:
  """The seeds of a run, in the order of its trials."""
  config = run.header['config']
  first: int = config['seed']
  return list(range(first, first + config.get('trials', 1)))


def trials(run: Run) -> dict[int, list[dict[str, Any]]]:
  """The records of each trial of a run, one an epoch, by seed."""
  if len(seeds(run)) == 1:
    return {seeds(run)[0]: run.records}
  return {
    seed: [
      {k: v for k, v in record.items() if k != 'trials'}
      | record['trials'][index]
      for record in run.records
    ]
    for index, seed in enumerate(seeds(run))
  }


def read(results: str | pathlib.Path = RESULTS) -> list[Run]:
  """All entries of the ledger, by name."""
  return [
    Run(path.stem, *run_log.read_log(path))
    for path in sorted(pathlib.Path(results).glob('*.jsonl'))
  ]


def main(argv: list[str]) -> None:
  """Adds one run."""
  del argv
  arguments = flags.FLAGS
  print(add(arguments.workdir, arguments.results, arguments.name))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_string('name', None, 'Name of the entry.', required=True)
  flags.DEFINE_string('results', RESULTS, 'Folder of the ledger.')
  app.run(main)
