"""Tables and figures from the ledger; nothing else makes numbers of ours.

  python -m experiments.report [--results DIR] [--out docs/results]

writes every study of which the paper has numbers or the ledger runs as
Markdown, CSV and LaTeX, and its figures as PNG and SVG, into --out, and prints
the tables. In a checkout it also fills README.md and docs/*.md, where a comment
`<!-- table: NAME -->` begins a table and `<!-- end -->` ends it.
"""

import pathlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags

from experiments import comparison, figures, ledger, settings, tables
from experiments.first_epoch import first_epoch_table

OUT = 'docs/results'
_MARKED = re.compile(
  r'(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)', re.DOTALL
)
_COLUMNS = (
  'setting',
  'accuracy %',
  'std',
  'trials',
  'epochs',
  'base %',
  'paper %',
  'its base %',
  'its logs %',
  'their trials',
  'ours - paper',
  '95 % from',
  'to',
  'mark',
)
# Left out where the paper has no number.
_OF_PAPER = _COLUMNS[6:-1]
NO_RUN = 'no run'
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def study_table(
  name: str, study: settings.Study, runs: Sequence[ledger.Run]
) -> tables.Table:
  """One row a setting, beside what the paper printed and its logs say."""
  cells = {
    setting: comparison.cell(config, runs)
    for setting, config in study.settings.items()
  }
  rows = [_row(name, setting, study, ours) for setting, ours in cells.items()]
  columns: Sequence[str] = _COLUMNS
  if not any(comparison.published(name, c) for c in study.settings.values()):
    kept = [i for i, column in enumerate(_COLUMNS) if column not in _OF_PAPER]
    columns = [_COLUMNS[i] for i in kept]
    rows = [[row[i] for i in kept] for row in rows]
  names = {entry for ours in cells.values() if ours for entry in ours.names}
  used = [run for run in runs if run.name in names]
  with_paper = len(columns) == len(_COLUMNS)
  return tables.Table(name, study.title, columns, rows, _note(used, with_paper))


def _row(
  name: str,
  setting: str,
  study: settings.Study,
  ours: comparison.Cell | None,
) -> list[str]:
  config = study.settings[setting]
  theirs = comparison.published(name, config)
  values = comparison.accuracies(ours) if ours else []
  printed = [''] * 4
  if theirs:
    printed[:2] = _number(theirs.paper), _number(theirs.full_precision)
  if theirs and theirs.raw is not None:
    printed[2:] = _number(theirs.raw), str(theirs.raw_trials)
  return [
    f'`{setting}`',
    _number(statistics.fmean(values)) if values else _without_values(ours),
    _number(statistics.stdev(values)) if len(values) > 1 else '',
    str(len(values)),
    str(ours.epochs) if ours else '',
    _number(ours.full_precision) if ours and ours.full_precision else '',
    *printed,
    *difference(values, theirs),
    mark(ours, theirs, study.trials, config.epochs),
  ]


def _without_values(ours: comparison.Cell | None) -> str:
  return 'diverged' if ours else NO_RUN


def _number(value: float) -> str:
  return f'{value:.2f}'


def difference(
  values: Sequence[float], theirs: comparison.Published | None
) -> list[str]:
  """Ours less the paper's, and its 95 % interval from three trials on."""
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
  """What has to be known before a row is compared.

  Args:
    ours: What was measured, if anything.
    theirs: What was published, if anything.
    trials: That the study wants.
    epochs: That its protocol has.
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


def all_tables(
  runs: Sequence[ledger.Run], studies: Mapping[str, settings.Study]
) -> dict[str, Callable[[], tables.Table]]:
  """Name to what makes the table."""

  def of(name: str) -> Callable[[], tables.Table]:
    return lambda: study_table(name, studies[name], runs)

  made = {name: of(name) for name in studies}
  return made | {'first-epoch': lambda: first_epoch_table(runs)}


def fill(
  page: str,
  runs: Sequence[ledger.Run],
  studies: Mapping[str, settings.Study],
) -> str:
  """The page with every marked table made anew.

  Raises:
    ValueError: If a marker names no table.
  """
  made = all_tables(runs, studies)

  def table(match: re.Match[str]) -> str:
    if match['name'] not in made:
      raise ValueError(
        f'no table is called {match["name"]!r}: there are {sorted(made)}.'
      )
    text = tables.markdown(made[match['name']]())
    return f'{match[1]}{text}{match[3]}'

  return _MARKED.sub(table, page)


def to_show(
  runs: Sequence[ledger.Run], studies: Mapping[str, settings.Study]
) -> dict[str, settings.Study]:
  """The studies of which the paper has numbers, or the ledger a run."""
  return {
    name: study
    for name, study in studies.items()
    if any(
      comparison.published(name, config) or comparison.cell(config, runs)
      for config in study.settings.values()
    )
  }


def write_all(
  runs: Sequence[ledger.Run],
  studies: Mapping[str, settings.Study],
  out: pathlib.Path,
  show: Callable[[str], None] = lambda text: None,
) -> list[pathlib.Path]:
  """Writes the tables and figures that the ledger gives.

  Args:
    runs: Of the ledger.
    studies: By name.
    out: Folder.
    show: Gets every table, as Markdown.

  Returns:
    The paths of the files.
  """
  shown = to_show(runs, studies)
  made = [study_table(name, study, runs) for name, study in shown.items()]
  first = first_epoch_table(runs)
  paths = []
  for table in [*made, first] if first.rows else made:
    show(f'\n## {table.title}\n\n{tables.markdown(table)}')
    paths += tables.write(table, out)
  return paths + figures.write_all(shown, runs, out)


def main(argv: list[str]) -> None:
  """Writes all that the ledger gives, and fills this project's pages."""
  del argv
  arguments = flags.FLAGS
  runs, studies = ledger.read(arguments.results), settings.load_all()
  for path in write_all(runs, studies, pathlib.Path(arguments.out), print):
    print(f'wrote {path}')
  if pathlib.Path(arguments.results).resolve() != _ROOT / ledger.RESULTS:
    return
  for path in [_ROOT / 'README.md', *(_ROOT / 'docs').glob('*.md')]:
    page = path.read_text(encoding='utf-8')
    filled = fill(page, runs, studies)
    if filled != page:
      path.write_text(filled, encoding='utf-8')
      print(f'wrote {path}')


if __name__ == '__main__':
  flags.DEFINE_string('results', ledger.RESULTS, 'Folder of the ledger.')
  flags.DEFINE_string('out', OUT, 'Folder for tables and figures.')
  app.run(main)
