"""The table of one study: measured and published accuracy per setting."""

import statistics
from collections.abc import Mapping, Sequence

from experiments.common.markdown import Table
from experiments.data.datasets import DATASETS
from experiments.records import ledger
from experiments.report import comparison, paired
from experiments.report.tables import join_distinct, make_table, without_run
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
_TOP5 = ('top-5 %', 'top-5 drop', 'paper top-5 %', 'published top-5 drop')


def study_table(
  name: str, study: spec.Study, runs: Sequence[ledger.Run]
) -> Table:
  """Returns one row per setting that was run, with the paper's number.

  The note says how many settings have no run.
  """
  theirs = {
    setting: comparison.published(study.published, config, setting)
    for setting, config in study.settings.items()
  }
  cells = {
    setting: comparison.cell(config, runs)
    for setting, config in study.settings.items()
  }
  with_paper = any(theirs.values())
  compared = paired.columns(paired.differences(cells, study.baselines))
  rows = [
    _row(setting, study, ours, theirs[setting], with_paper)
    | _added(setting, study, compared)
    for setting, ours in cells.items()
    if ours
  ]
  optional = (*_TOP5, 'mark')
  empty = [name for name in optional if not any(row[name] for row in rows)]
  rows = [{k: v for k, v in row.items() if k not in empty} for row in rows]
  names = {entry for ours in cells.values() if ours for entry in ours.names}
  used = [run for run in runs if run.name in names]
  note = _note(study, used, with_paper)
  note += paired.NOTE if study.baselines else ''
  note += without_run(len(cells) - len(rows), len(cells))
  return make_table(name, study.title, rows, note)


def _added(
  setting: str,
  study: spec.Study,
  compared: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:
  """Returns the columns of a study that compares settings seed by seed."""
  if not study.baselines:
    return {}
  rate = study.settings[setting].learning_rate
  return {'α': f'{rate:g}', **compared.get(setting, paired.EMPTY)}


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
  row |= _bits(study, ours)
  if study.drops is not None:
    drop = None if base is None or mean is None else base - mean
    row['drop'] = _number(drop)
  if with_paper:
    row |= dict.fromkeys(_OF_PAPER, '') | _compared(values, theirs)
  published_drop = (study.drops or {}).get(setting)
  if study.drops:
    row |= {'published drop': '', 'of': ''}
  if published_drop:
    row['published drop'] = _number(published_drop.accuracy)
    row['of'] = published_drop.source
  row |= _top5(ours, theirs, published_drop)
  remarks = comparison.shortfalls(ours, study.settings[setting])
  if len(ours.records) < study.trials:
    remarks.append(f'{len(ours.records)} of {study.trials} trials')
  if theirs and theirs.remark:
    remarks.append(f'paper: {theirs.remark}')
  # A row must not be compared without them.
  return row | {'mark': ', '.join(remarks)}


def _bits(study: spec.Study, ours: comparison.Cell) -> dict[str, str]:
  """Returns the columns of the test loss in bits, if the data have symbols."""
  symbols = {DATASETS[c.dataset].symbol for c in study.settings.values()} - {''}
  if not symbols:
    return {}
  values = comparison.bits(ours)
  spread = statistics.stdev(values) if len(values) > 1 else None
  numbers = (statistics.fmean(values) if values else None, spread)
  return {
    name: '' if number is None else f'{number:.4f}'
    for name, number in zip(
      (f'bits per {join_distinct(symbols)}', 'std of bits'),
      numbers,
      strict=True,
    )
  }


def _top5(
  ours: comparison.Cell,
  theirs: comparison.Published | None,
  published_drop: spec.Drop | None,
) -> dict[str, str]:
  """Returns the columns of top-5 accuracies, measured and published."""
  values = comparison.accuracies(ours, 'test_top5_accuracy')
  mean = statistics.fmean(values) if values else None
  base = ours.base_top5_accuracy
  drop = None if base is None or mean is None else base - mean
  columns = (
    mean,
    drop,
    theirs and theirs.paper_top5,
    published_drop and published_drop.top5_accuracy,
  )
  return dict(zip(_TOP5, map(_number, columns), strict=True))


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
    # Fewer than three trials, and equal ones, have no interval.
    ends = comparison.interval(values) or ()
    numbers = (statistics.fmean(values), *ends)
    texts += [f'{number - theirs.paper:+.2f}' for number in numbers]
  return dict(zip(_OF_PAPER, texts, strict=False))


def _note(
  study: spec.Study, used: Sequence[ledger.Run], with_paper: bool
) -> str:
  last = {
    f'{config.last_epochs} of {config.epochs}'
    for config in study.settings.values()
    if config.last_epochs
  }
  span = 'the last tenth of the epochs, at least one epoch.'
  if last:
    span = f'the last epochs ({join_distinct(last)}).'
  if with_paper and study.paper_mean:
    span += f' {study.paper_mean}'
  text = (
    f'{_measured_on(used)} is the mean over {span} The'
    ' columns std and base % are the standard deviation over trials and the'
    ' accuracy of the full-precision network that the runs start from.'
  )
  if with_paper:
    text += (
      " The 95 % interval of the difference is Student's, over our trials, and"
      " treats the paper's number as exact."
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
