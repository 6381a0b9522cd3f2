"""The ledger: results/, one JSONL file a run, from which all tables are made.

  python -m experiments.ledger --workdir=runs/mine --name=resnet20-mine

copies a run's metrics.jsonl there. Names of folders on one's own machine are
no result: a path in the configuration is kept by its last part alone.
"""

import json
import pathlib
from typing import Any, NamedTuple

from absl import app, flags

from experiments import metrics

RESULTS = 'results'
PATHS = ('data_dir', 'pretrained')


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
  workdir: str | pathlib.Path, results: str | pathlib.Path, name: str
) -> pathlib.Path:
  """Copies a run into the ledger.

  Args:
    workdir: Folder of the run.
    results: Folder of the ledger; made if missing.
    name: Name of the entry.

  Returns:
    The new file.

  Raises:
    FileNotFoundError: If `workdir` has no metrics.jsonl.
    ValueError: If the run has no epoch yet, or did not reach its last one.
  """
  header, records = metrics.read_log(pathlib.Path(workdir) / 'metrics.jsonl')
  config = header['config']
  if not records or records[-1]['epoch'] < config['epochs']:
    raise ValueError(
      f'{workdir} has {len(records)} of {config["epochs"]} epochs: let the run'
      ' end before it goes into the ledger.'
    )
  for key in PATHS:
    config[key] = pathlib.PurePath(config[key]).name
  path = pathlib.Path(results) / f'{name}.jsonl'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    ''.join(json.dumps(line) + '\n' for line in (header, *records)),
    encoding='utf-8',
  )
  return path


def read(results: str | pathlib.Path = RESULTS) -> list[Run]:
  """All entries of the ledger, by name."""
  return [
    Run(path.stem, *metrics.read_log(path))
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
