"""What the ledger has of a setting, beside what was published of it."""

import functools
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.build.base_model import is_from_scratch
from experiments.build.fingerprint import identity
from experiments.records import ledger, run_log
from experiments.study.spec import in_protocol

PUBLISHED = pathlib.Path(__file__).parents[1] / 'studies' / 'published.json'
RESAMPLES = 10_000
LEAST_TRIALS = 3  # below which an interval would mean nothing
# Runs of one setting may differ in these; a cell holds runs that do not.
_GROUPED = ('epochs', 'pretrained', 'pretrain_epochs')
_MAIN = ('network', 'dataset', 'quantizer', 'estimator', 'optimizer')
# Study to its published table, and the keys by which that is looked up.
_KEYS = {
  'table1': ('tables_1_and_2', _MAIN),
  'table2': ('tables_1_and_2', _MAIN),
  'table5': ('table_5', ('estimator', 'slim')),
  'table6': ('table_6', ('hidden', 'estimator_activation')),
}


class Cell(NamedTuple):
  """What was measured of one setting: trials that differ in their seeds alone.

  Attributes:
    records: Of each trial, one dict an epoch, by seed; those that diverged are
      left out.
    diverged: Seeds of those.
    epochs: That each was to run.
    base_accuracy: Test accuracy of the base model, percent; None if not known.
    names: Of the entries in the ledger.
  """

  records: dict[int, list[dict[str, Any]]]
  diverged: list[int]
  epochs: int
  base_accuracy: float | None
  names: list[str]


class Published(NamedTuple):
  """A cell of the paper, percent.

  Attributes:
    paper: As printed.
    base_accuracy: Of the base model, as printed.
    raw: Recomputed from the authors' logs; None where there are none.
    raw_trials: That these logs have; the paper says 5.
    remark: What is wrong with the printed number, by the logs.
  """

  paper: float
  base_accuracy: float
  raw: float | None = None
  raw_trials: int = 0
  remark: str = ''


def cell(config: ConfigDict, runs: Sequence[ledger.Run]) -> Cell | None:
  """What the ledger has of a setting.

  Of runs that differ in length or in their base model, those that are nearest
  to the setting's epochs without being longer, then the most. A seed that
  stands there twice counts once.
  """
  wanted = identity(config.to_dict(), without=_GROUPED)
  groups: dict[Any, list[ledger.Run]] = {}
  for run in runs:
    own = run.header['config']
    same = identity(own, without=_GROUPED) == wanted
    if same and is_from_scratch(own) == is_from_scratch(config.to_dict()):
      base = run.header['start'].get('base_accuracy')
      groups.setdefault((identity(own), base), []).append(run)
  if not groups:
    return None
  chosen = max(
    groups.values(),
    key=lambda group: (
      _nearness(group[0].header['config']['epochs'], config.epochs),
      len({seed for run in group for seed in ledger.seeds(run)}),
    ),
  )
  records: dict[int, list[dict[str, Any]]] = {}
  diverged: set[int] = set()
  for run in chosen:
    if 'diverged' in run.header:
      diverged |= set(ledger.seeds(run))
    else:
      records = ledger.trials(run) | records
  first = chosen[0].header
  return Cell(
    dict(sorted(records.items())),
    sorted(diverged),
    first['config']['epochs'],
    first['start'].get('base_accuracy'),
    [run.name for run in chosen],
  )


def _nearness(epochs: int, wanted: int) -> tuple[bool, int]:
  return epochs <= wanted, -abs(wanted - epochs)


def accuracies(measured: Cell) -> list[float]:
  """Each trial's mean test accuracy, last tenth of its epochs, percent."""
  return [
    statistics.fmean(
      record['test_accuracy'] for record in run_log.last_epochs(records)
    )
    for records in measured.records.values()
  ]


def interval(values: Sequence[float]) -> tuple[float, float] | None:
  """The 95 % interval of a mean, by the percentile bootstrap over trials.

  Args:
    values: One a trial.

  Returns:
    Its ends, or None of fewer than three values. The same at every call.
  """
  if len(values) < LEAST_TRIALS:
    return None
  generator = np.random.default_rng(0)
  drawn = generator.choice(values, size=(RESAMPLES, len(values)))
  low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
  return float(low), float(high)


def published(study: str, config: ConfigDict) -> Published | None:
  """The paper's cell of a setting that is of its protocol, or None."""
  if study not in _KEYS:
    return None
  table, names = _KEYS[study]
  own = {name: config[name] for name in {*_MAIN, *names}}
  theirs = in_protocol('paper', **own)
  if identity(config.to_dict()) != identity(theirs.to_dict()):
    return None
  for entry in _published_tables()[table]:
    if all(entry[name] == config[name] for name in names):
      return Published(
        entry['paper'],
        _base_accuracy(config),
        entry.get('raw'),
        entry.get('raw_trials', 0),
        entry.get('remark', ''),
      )
  return None


def _base_accuracy(config: ConfigDict) -> float:
  own = f'{config.network}-{config.dataset}'
  printed: float = _published_tables()['base_accuracy'][own]
  return printed


@functools.cache
def _published_tables() -> dict[str, Any]:
  tables: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding='utf-8'))
  return tables
