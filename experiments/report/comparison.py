"""The measured and the published accuracy of a setting."""

import json
import math
import pathlib
import statistics
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from scipy import stats

from experiments.build.base_model import START_KEYS, is_from_scratch
from experiments.build.fingerprint import identity
from experiments.build.schedules import spans_run
from experiments.build.schema import KEYS
from experiments.records import ledger, run_log
from experiments.study.spec import in_protocol

PUBLISHED = pathlib.Path(__file__).parents[1] / 'studies' / 'published.json'
_TABLES: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding='utf-8'))
_ROUNDING = 1e-9  # relative to the values
MINIMUM_TRIALS = 3  # An interval of fewer trials would mean nothing.
# Digests in the start of a log, in the order of the fields of a cell.
_DIGESTS = ('data', 'base')
# Runs of one setting may differ in these keys, but those of one cell agree.
_CELL_KEYS = START_KEYS | {'epochs'}


class Cell(NamedTuple):
  """The measurements of one setting: trials that differ only in their seeds.

  Attributes:
    records: Records of each trial that did not diverge, one dict per epoch, by
      seed.
    diverged: Seeds of the trials that diverged.
    epochs: Number of epochs of each trial.
    last_epochs: Number of the last epochs whose mean is the result; 0 for a
      tenth of all.
    base_accuracy: Test accuracy of the base model, percent; None if not known.
    base_top5_accuracy: Top-5 accuracy of the base model, percent; None if not
      known.
    names: Names of the entries in the ledger.
    machines: Kind of device, and number of trials in one program, of each
      entry.
    data: Digest of the data; empty if it is not known, or if the configuration
      determines the data.
    base: Digest of the base model; empty if it is not known.
  """

  records: dict[int, list[dict[str, Any]]]
  diverged: list[int]
  epochs: int
  last_epochs: int
  base_accuracy: float | None
  base_top5_accuracy: float | None
  names: list[str]
  machines: set[tuple[str, int]]
  data: str = ''
  base: str = ''


class Published(NamedTuple):
  """A cell of the paper's tables, in percent.

  Attributes:
    paper: Printed accuracy.
    base_accuracy: Printed accuracy of the base model; None if the paper prints
      no such accuracy.
    raw: Accuracy by the authors' logs; None if there are no logs.
    raw_trials: Number of trials in these logs; the paper says 5.
    remark: Error in the printed number, according to the logs.
    paper_top5: Printed top-5 accuracy; None if the paper prints no such
      accuracy.
  """

  paper: float
  base_accuracy: float | None
  raw: float | None = None
  raw_trials: int = 0
  remark: str = ''
  paper_top5: float | None = None


def cell(config: ConfigDict, runs: Sequence[ledger.Run]) -> Cell | None:
  """Returns the measurements of a setting, or None if the ledger has no run.

  If the setting names a base model, only runs from this file count. A shorter
  run counts only if no schedule depends on the number of epochs. Runs that
  differ in length, base model or data are not pooled: the cell has the longest
  ones, and among these the larger group. A seed that occurs twice counts once.
  """
  wanted = identity(config.to_dict(), without=_CELL_KEYS)
  matching = [
    run
    for run in runs
    if is_from_scratch(run.header['config']) == is_from_scratch(config)
    and run.identity(_CELL_KEYS) == wanted
    and _is_beginning(run.header['config']['epochs'], config)
  ]
  if config.pretrained:
    matching = _from_base(matching, pathlib.Path(config.pretrained))
  # An older log lacks a digest. It joins the others if they agree.
  data = _only({_digest(run, 'data') for run in matching})
  bases = {
    accuracy: _only(
      {
        _digest(run, 'base')
        for run in matching
        if _base_accuracy(run) == accuracy
      }
    )
    for accuracy in {_base_accuracy(run) for run in matching}
  }
  groups: dict[Any, list[ledger.Run]] = {}
  for run in matching:
    accuracy = _base_accuracy(run)
    same_start = (
      # The accuracy of one base model differs between devices.
      _digest(run, 'base') or bases[accuracy] or accuracy,
      _digest(run, 'data') or data,
    )
    groups.setdefault((run.identity(), same_start), []).append(run)
  if not groups:
    return None

  def rank(group: list[ledger.Run]) -> tuple[int, int]:
    seeds = {seed for run in group for seed in ledger.seeds(run)}
    return group[0].header['config']['epochs'], len(seeds)

  chosen = max(groups.values(), key=rank)
  records: dict[int, list[dict[str, Any]]] = {}
  diverged: set[int] = set()
  for run in chosen:
    if 'diverged' in run.header:
      diverged |= set(ledger.seeds(run))
    else:
      records = ledger.trials(run) | records
  first = chosen[0].header
  epochs = first['config']['epochs']
  return Cell(
    dict(sorted(records.items())),
    sorted(diverged),
    epochs,
    config.last_epochs,
    first['start'].get('base_accuracy'),
    first['start'].get('base_top5_accuracy'),
    [run.name for run in chosen],
    {(run.header['device']['kind'], len(ledger.seeds(run))) for run in chosen},
    *(_only({_digest(run, name) for run in chosen}) for name in _DIGESTS),
  )


def _is_beginning(epochs: int, config: ConfigDict) -> bool:
  """Returns True if the first epochs of a setting are a run of that length."""
  return epochs == config.epochs or (
    epochs < config.epochs and not spans_run(config)
  )


def _from_base(
  runs: Sequence[ledger.Run], path: pathlib.Path
) -> list[ledger.Run]:
  """Returns the runs from a base model, by its name and its contents."""
  named = [
    run
    for run in runs
    if pathlib.PurePath(run.header['config']['pretrained']).name == path.name
  ]
  return ledger.from_base(named, path)


def _digest(run: ledger.Run, name: str) -> str:
  """Returns one of the `_DIGESTS` of a run; '' if it is not known."""
  return str(run.header['start'].get(name, ''))


def _only(digests: Set[str]) -> str:
  """Returns the known digest, or '' unless exactly one digest is known."""
  known = digests - {''}
  return next(iter(known)) if len(known) == 1 else ''


def _base_accuracy(run: ledger.Run) -> float | None:
  return run.header['start'].get('base_accuracy')


def shortfalls(measured: Cell, config: ConfigDict) -> list[str]:
  """Returns the diverged trials and missing epochs of a setting, in words."""
  found = []
  if measured.diverged:
    found.append(f'{len(measured.diverged)} diverged')
  if measured.epochs != config.epochs:
    found.append(f'{measured.epochs} of {config.epochs} epochs')
  return found


def accuracies(measured: Cell, score: str = 'test_accuracy') -> list[float]:
  """Returns the mean accuracy of each trial, in percent, if it was measured.

  Args:
    measured: Measurements, whose `last_epochs` are the epochs of the mean.
    score: Name of the accuracy in the records.
  """
  return [
    statistics.fmean(
      record[score]
      for record in run_log.last_epochs(records, measured.last_epochs)
    )
    for records in measured.records.values()
    if all(score in record for record in records)
  ]


def bits(measured: Cell) -> list[float]:
  """Returns the test loss of each trial, in bits per symbol of the data."""
  return [to_bits(loss) for loss in accuracies(measured, 'test_loss')]


def to_bits(loss: float) -> float:
  """Returns a cross entropy in nats, or a difference of two, in bits."""
  return loss / math.log(2)


def interval(
  values: Sequence[float], scale: float = 0.0
) -> tuple[float, float] | None:
  """Returns Student's 95 % interval of a mean.

  Args:
    values: One value per trial.
    scale: Size of the numbers that the values are differences of.

  Returns:
    The ends of the interval; None for fewer than three values, or values that
    are equal up to rounding.
  """
  spread = max(values) - min(values)
  is_equal = spread <= _ROUNDING * max(scale, *map(abs, values))
  if len(values) < MINIMUM_TRIALS or is_equal:
    return None
  low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
  return float(low), float(high)


def published(
  table: str, config: ConfigDict, setting: str = ''
) -> Published | None:
  """Returns the paper's cell of a setting, or None.

  An entry of a table names its setting, or every key in which its setting
  differs from the default of the protocol 'paper'.

  Args:
    table: Name of a table in `PUBLISHED`; '' if the setting is in no table.
    config: Setting. Only settings of the paper's protocol are in its tables.
    setting: Name of the setting in its study.
  """
  for entry in _TABLES[table] if table else ():
    if 'setting' in entry:
      if entry['setting'] == setting:
        return _published(entry, config)
      continue
    changes = _changes(entry)
    if any(config[name] != value for name, value in changes.items()):
      continue
    theirs = in_protocol('paper', **changes)
    if identity(config.to_dict()) == identity(theirs.to_dict()):
      return _published(entry, config)
  return None


def _published(entry: dict[str, Any], config: ConfigDict) -> Published:
  # Tables of other papers have base models of their own.
  bases = {} if 'setting' in entry else _TABLES['base_accuracy']
  base = bases.get(f'{config.network}-{config.dataset}')
  given = {k: v for k, v in entry.items() if k in Published._fields}
  fields: dict[str, Any] = {'base_accuracy': base} | given
  return Published(**fields)


def logged() -> list[tuple[ConfigDict, dict[str, Any]]]:
  """Returns each setting with logged losses per epoch, and its entry."""
  return [
    (in_protocol('paper', **_changes(entry)), entry)
    for entry in _TABLES['first_epochs']
  ]


def _changes(entry: dict[str, Any]) -> dict[str, Any]:
  return {name: entry[name] for name in entry.keys() & KEYS.keys()}
