"""The table of one study: measured and published accuracy per setting."""

import statistics
from collections.abc import Sequence

from experiments.common.console import counted
from experiments.common.markdown import Table
from experiments.records import ledger
from experiments.report import comparison
from experiments.report.tables import join_distinct, make_table
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


def study_table(
  name: str, study: spec.Study, runs: Sequence[ledger.Run]
) -> Table:
  """Returns one row per setting that was run, with the paper's number.

  The note says how many settings have no run.
  """
  theirs = {
    setting: comparison.published(study.published, config)
    for setting, config in study.settings.items()
  }
  cells = {
    setting: comparison.cell(config, runs)
    for setting, config in study.settings.items()
  }
  with_paper = any(theirs.values())
  rows = [
    _row(setting, study, ours, theirs[setting], with_paper)
    for setting, ours in cells.items()
    if ours
  ]
  names = {entry for ours in cells.values() if ours for entry in ours.names}
  used = [run for run in runs if run.name in names]
  note = _note(used, with_paper)
  if missing := len(cells) - len(rows):
    of = counted(len(cells), 'setting')
    note += (
      f' {missing} of {of} {"has" if missing == 1 else "have"} no run yet.'
    )
  return make_table(name, study.title, rows, note)


def _row(
  setting: str,
  study: spec.Study,
  ours: comparison.Cell,
  theirs: comparison.Published | None,
  with_paper: bool,
) -> dict[str, str]:
  values = comparison.accuracies(ours)
  mean = statistics.fmean(values) if values else None
  base = ours.base_accuracy
  row = {
    'setting': f'`{setting}`',
    'accuracy %': _number(mean) or 'diverged',
    'std': _number(statistics.stdev(values) if len(values) > 1 else None),
    'trials': str(len(values)),
    'epochs': str(ours.epochs),
    'base %': _number(base),
  }
  if study.drops:
    drop = None if base is None or mean is None else base - mean
    row['drop'] = _number(drop)
  if with_paper:
    row |= dict.fromkeys(_OF_PAPER, '') | _compared(values, theirs)
  if study.drops:
    published_drop, source = study.drops.get(setting, (None, ''))
    row |= {'published drop': _number(published_drop), 'of': source}
  epochs = study.settings[setting].epochs
  return row | {'mark': _mark(ours, theirs, study.trials, epochs)}


def _number(value: float | None) -> str:
  return '' if value is None else f'{value:.2f}'


def _compared(
  values: Sequence[float], theirs: comparison.Published | None
) -> dict[str, str]:
  """Returns the paper's number, and our mean minus it with its interval."""
  if theirs is None:
    return {}
  texts = [
    _number(theirs.paper),
    _number(theirs.base_accuracy),
    _number(theirs.raw),
    '' if theirs.raw is None else str(theirs.raw_trials),
  ]
  if values:
    # Fewer than three trials have no interval.
    ends = comparison.interval(values) or ()
    numbers = (statistics.fmean(values), *ends)
    texts += [f'{number - theirs.paper:+.2f}' for number in numbers]
  return dict(zip(_OF_PAPER, texts, strict=False))


def _mark(
  ours: comparison.Cell,
  theirs: comparison.Published | None,
  trials: int,
  epochs: int,
) -> str:
  """Returns the remarks without which a row must not be compared."""
  remarks = []
  if ours.diverged:
    remarks.append(f'{len(ours.diverged)} diverged')
  if ours.epochs != epochs:
    remarks.append(f'{ours.epochs} of {epochs} epochs')
  if len(ours.records) < trials:
    remarks.append(f'{len(ours.records)} of {trials} trials')
  if theirs and theirs.remark:
    remarks.append(f'paper: {theirs.remark}')
  return ', '.join(remarks)


def _note(used: Sequence[ledger.Run], with_paper: bool) -> str:
  text = (
    f'{_measured_on(used)} is the mean over the last tenth of the epochs, at'
    ' least one epoch. The paper takes the mean over the last ten epochs. The'
    ' columns std and base % are the standard deviation over trials and the'
    ' accuracy of the full-precision network that the runs start from.'
  )
  if with_paper:
    text += (
      ' The 95 % interval of the difference is a bootstrap over our trials,'
      " which treats the paper's number as exact."
    )
  if not used:
    return text
  kinds = join_distinct(run.header['device']['kind'] for run in used)
  versions = join_distinct(run.header['versions']['jax'] for run in used)
  return f'{text} Device {kinds}, jax {versions}.'


def _measured_on(used: Sequence[ledger.Run]) -> str:
  numbers = sorted({run.header['config'].get('holdout', 0) for run in used})
  return ' or '.join(
    f'accuracy on {number:,} training images held out'
    if number
    else 'test accuracy'
    for number in numbers or [0]
  ).capitalize()
