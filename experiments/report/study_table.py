"""The table of one study: measured and published accuracy per setting."""

import statistics
from collections.abc import Sequence

from experiments.common.markdown import Table
from experiments.records import ledger
from experiments.report import comparison
from experiments.study import spec

_OF_PAPER = (
  'paper %',
  'its base %',
  'its logs %',
  'their trials',
  'ours - paper',
  '95 % from',
  'to',
)
_COLUMNS = (
  'setting',
  'accuracy %',
  'std',
  'trials',
  'epochs',
  'base %',
  'drop',
  *_OF_PAPER,
  'published drop',
  'of',
  'mark',
)
_OF_DROP = ('drop', 'published drop', 'of')
NO_RUN = 'no run'


def study_table(
  name: str, study: spec.Study, runs: Sequence[ledger.Run]
) -> Table:
  """Returns one row per setting, with the paper's number and its logs'."""
  cells = {
    setting: comparison.cell(config, runs)
    for setting, config in study.settings.items()
  }
  all_rows = [_row(setting, study, ours) for setting, ours in cells.items()]
  with_paper = any(
    comparison.published(study.published, config)
    for config in study.settings.values()
  )
  left_out = set(() if with_paper else _OF_PAPER)
  left_out |= set(() if study.drops else _OF_DROP)
  columns = [column for column in _COLUMNS if column not in left_out]
  rows = [[row[column] for column in columns] for row in all_rows]
  names = {entry for ours in cells.values() if ours for entry in ours.names}
  used = [run for run in runs if run.name in names]
  return Table(name, study.title, columns, rows, _note(used, with_paper))


def _row(
  setting: str, study: spec.Study, ours: comparison.Cell | None
) -> dict[str, str]:
  config = study.settings[setting]
  theirs = comparison.published(study.published, config)
  values = comparison.accuracies(ours) if ours else []
  printed = [''] * 4
  if theirs:
    printed[:2] = _number(theirs.paper), _number(theirs.base_accuracy)
  if theirs and theirs.raw is not None:
    printed[2:] = _number(theirs.raw), str(theirs.raw_trials)
  base = ours.base_accuracy if ours else None
  drop = base - statistics.fmean(values) if base and values else None
  published_drop, source = study.drops.get(setting, (None, ''))
  values_of = (
    f'`{setting}`',
    _number(statistics.fmean(values)) if values else _without_values(ours),
    _number(statistics.stdev(values)) if len(values) > 1 else '',
    str(len(values)),
    str(ours.epochs) if ours else '',
    _number(base) if base else '',
    _number(drop) if drop is not None else '',
    *printed,
    *difference(values, theirs),
    _number(published_drop) if published_drop is not None else '',
    source,
    mark(ours, theirs, study.trials, config.epochs),
  )
  return dict(zip(_COLUMNS, values_of, strict=True))


def _without_values(ours: comparison.Cell | None) -> str:
  return 'diverged' if ours else NO_RUN


def _number(value: float) -> str:
  return f'{value:.2f}'


def difference(
  values: Sequence[float], theirs: comparison.Published | None
) -> list[str]:
  """Returns our mean minus the paper's, and the ends of its 95 % interval.

  The ends are '' for fewer than three trials.
  """
  if theirs is None or not values:
    return [''] * 3
  ends = comparison.interval(values) or ()
  numbers = [statistics.fmean(values), *ends]
  texts = [f'{number - theirs.paper:+.2f}' for number in numbers]
  return texts + [''] * (3 - len(texts))


def mark(
  ours: comparison.Cell | None,
  theirs: comparison.Published | None,
  trials: int,
  epochs: int,
) -> str:
  """Returns the remarks without which a row must not be compared.

  Args:
    ours: Measurements, if any.
    theirs: Published accuracy, if any.
    trials: Number of trials of the study.
    epochs: Number of epochs of its protocol.
  """
  remarks = []
  if ours and ours.diverged:
    remarks.append(f'{len(ours.diverged)} diverged')
  if ours and ours.epochs != epochs:
    remarks.append(f'{ours.epochs} of {epochs} epochs')
  if ours and len(ours.records) < trials:
    remarks.append(f'{len(ours.records)} of {trials} trials')
  if theirs and theirs.remark:
    remarks.append(f'paper: {theirs.remark}')
  return ', '.join(remarks)


def _note(used: Sequence[ledger.Run], with_paper: bool) -> str:
  text = (
    f'{_measured_on(used)}, mean of the last tenth of the epochs (at'
    ' least one; in the paper, of the last ten); std is the standard deviation'
    ' over trials; base is the full-precision network that the runs start from'
  )
  if with_paper:
    text += (
      '; the interval is that of the difference, by a bootstrap over our'
      ' trials, the printed number taken as exact'
    )
  text += '.'
  if not used:
    return text
  kinds = ', '.join(sorted({run.header['device']['kind'] for run in used}))
  versions = ', '.join(sorted({run.header['versions']['jax'] for run in used}))
  return f'{text} Device {kinds}, jax {versions}.'


def _measured_on(used: Sequence[ledger.Run]) -> str:
  numbers = sorted({run.header['config'].get('holdout', 0) for run in used})
  return ' or '.join(
    f'accuracy on {number:,} training images held out'
    if number
    else 'test accuracy'
    for number in numbers or [0]
  ).capitalize()
