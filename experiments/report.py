"""Tables and figures from the ledger; nothing else makes numbers of ours.

  python -m experiments.report [--results DIR] [--out docs/results]

writes every study of which the ledger has runs as Markdown, CSV and LaTeX, and
its figures as PNG and SVG, into --out, and prints the tables. In a checkout it
also fills README.md and docs/*.md, where a comment `<!-- table: NAME -->`
begins a table and `<!-- end -->` ends it.
"""

import pathlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags
from ml_collections import ConfigDict

from experiments import comparison, figures, ledger, settings, tables
from experiments.first_epoch import first_epoch_table

OUT = 'docs/results'
_MARKED = re.compile(
  r'(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)', re.DOTALL
)
_COLUMNS = (
  'setting',
  'accuracy %',
  'trials',
  'epochs',
  'paper %',
  'its logs %',
  'ours − paper',
  'mark',
)
NO_RUN = 'no run'


def study_table(
  name: str, study: settings.Study, runs: Sequence[ledger.Run]
) -> tables.Table:
  """One row a setting, beside what the paper printed and its logs say."""
  rows = [
    _row(setting, config, name, runs)
    for setting, config in study.settings.items()
  ]
  return tables.Table(name, study.title, _COLUMNS, rows, _note(study, runs))


def _row(
  setting: str, config: ConfigDict, study: str, runs: Sequence[ledger.Run]
) -> list[str]:
  ours = comparison.cell(config, runs)
  theirs = None
  if not setting.endswith('-fair'):
    theirs = comparison.published(study, config)
  printed = [
    _number(theirs.paper) if theirs else '',
    _number(theirs.raw) if theirs else '',
  ]
  if ours is None:
    return [f'`{setting}`', NO_RUN, '0', '', *printed, '', '']
  accuracies = comparison.accuracies(ours)
  return [
    f'`{setting}`',
    mean_and_deviation(accuracies),
    str(len(accuracies)),
    str(ours.epochs),
    *printed,
    difference(accuracies, theirs),
    mark(ours, theirs),
  ]


def _number(value: float | None) -> str:
  return 'incomplete' if value is None else f'{value:.2f}'


def mean_and_deviation(values: Sequence[float]) -> str:
  """Mean and, of two or more, standard deviation over trials."""
  if not values:
    return 'diverged'
  mean = f'{statistics.fmean(values):.2f}'
  if len(values) < 2:
    return mean
  return f'{mean} ± {statistics.stdev(values):.2f}'


def difference(
  values: Sequence[float], theirs: comparison.Published | None
) -> str:
  """Ours less the paper's, with its 95 % interval from three trials on."""
  if theirs is None or not values:
    return ''
  text = f'{statistics.fmean(values) - theirs.paper:+.2f}'.replace('-', '−')
  ends = comparison.interval(values)
  if ends is None:
    return text
  low, high = (f'{e - theirs.paper:+.2f}'.replace('-', '−') for e in ends)
  return f'{text} ({low} to {high})'


def mark(ours: comparison.Cell, theirs: comparison.Published | None) -> str:
  """What has to be known before a row is compared."""
  remarks = []
  if ours.diverged:
    remarks.append(f'{len(ours.diverged)} diverged')
  if theirs and ours.epochs < theirs.epochs:
    remarks.append(f'{ours.epochs} of {theirs.epochs} epochs')
  if theirs and len(ours.records) < theirs.trials:
    remarks.append(f'{len(ours.records)} of {theirs.trials} trials')
  return ', '.join(remarks)


def _note(study: settings.Study, runs: Sequence[ledger.Run]) -> str:
  cells = [comparison.cell(c, runs) for c in study.settings.values()]
  names = {name for cell in cells if cell for name in cell.names}
  used = [run for run in runs if run.name in names]
  text = (
    'Test accuracy, mean of the last ten epochs (of all, if there are fewer);'
    ' ± is the standard deviation over trials; the interval is a bootstrap over'
    ' ours and takes the printed number as exact.'
  )
  if not used:
    return text
  kinds = ', '.join(sorted({run.header['device']['kind'] for run in used}))
  versions = ', '.join(sorted({run.header['versions']['jax'] for run in used}))
  return f'{text} Device {kinds}, jax {versions}.'


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


def with_runs(
  runs: Sequence[ledger.Run], studies: Mapping[str, settings.Study]
) -> dict[str, settings.Study]:
  """The studies of which the ledger has a run."""
  return {
    name: study
    for name, study in studies.items()
    if any(comparison.cell(c, runs) for c in study.settings.values())
  }


def main(argv: list[str]) -> None:
  """Writes all that the ledger gives."""
  del argv
  arguments = flags.FLAGS
  runs, studies = ledger.read(arguments.results), settings.load_all()
  out = pathlib.Path(arguments.out)
  shown = with_runs(runs, studies)
  for name, study in shown.items():
    table = study_table(name, study, runs)
    print(f'\n## {table.title}\n\n{tables.markdown(table)}')
    for path in tables.write(table, out):
      print(f'wrote {path}')
  for path in figures.write_all(shown, runs, out):
    print(f'wrote {path}')
  if not shown:
    print(f'{arguments.results} has no run of a study.')
  if arguments.results != ledger.RESULTS:
    return
  for path in [pathlib.Path('README.md'), *pathlib.Path('docs').glob('*.md')]:
    page = path.read_text(encoding='utf-8')
    filled = fill(page, runs, studies)
    if filled != page:
      path.write_text(filled, encoding='utf-8')
      print(f'wrote {path}')


if __name__ == '__main__':
  flags.DEFINE_string('results', ledger.RESULTS, 'Folder of the ledger.')
  flags.DEFINE_string('out', OUT, 'Folder for tables and figures.')
  app.run(main)
