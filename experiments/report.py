"""Tables and figures from the ledger; nothing else makes numbers of ours.

  python -m experiments.report [--results DIR] [--out docs/results]

writes every study of which the paper has numbers or the ledger runs as
Markdown, CSV and LaTeX, and its figures as PNG and SVG, into --out, and prints
the tables. In a checkout it also fills README.md and docs/*.md, where a comment
`<!-- table: NAME -->` begins a table and `<!-- end -->` ends it.
"""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags

from experiments import comparison, figures, ledger, settings, tables
from experiments.deployed_table import deployed_table, read_cards
from experiments.first_epoch import first_epoch_table
from experiments.method_table import method_table, read_costs
from experiments.study_table import study_table

OUT = 'docs/results'
_MARKED = re.compile(
  r'(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)', re.DOTALL
)
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def all_tables(
  runs: Sequence[ledger.Run], studies: Mapping[str, settings.Study]
) -> dict[str, Callable[[], tables.Table]]:
  """Name to what makes the table."""

  def of(name: str) -> Callable[[], tables.Table]:
    return lambda: study_table(name, studies[name], runs)

  made = {name: of(name) for name in studies}
  if 'methods' in studies:
    made['methods-overview'] = lambda: _methods(studies, runs)
  return made | {
    'first-epoch': lambda: first_epoch_table(runs),
    'deployed': lambda: deployed_table(read_cards(_ROOT / ledger.RESULTS)),
  }


def _methods(
  studies: Mapping[str, settings.Study], runs: Sequence[ledger.Run]
) -> tables.Table:
  return method_table(
    studies['methods'], runs, read_costs(_ROOT / ledger.RESULTS)
  )


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
    or study.drops
  }


def write_all(
  runs: Sequence[ledger.Run],
  studies: Mapping[str, settings.Study],
  out: pathlib.Path,
  show: Callable[[str], None] = lambda text: None,
  cards: Sequence[dict[str, Any]] = (),
) -> list[pathlib.Path]:
  """Writes the tables and figures that the ledger gives.

  Args:
    runs: Of the ledger.
    studies: By name.
    out: Folder.
    show: Gets every table, as Markdown.
    cards: Of the ledger's deployed networks.

  Returns:
    The paths of the files.
  """
  shown = to_show(runs, studies)
  made = [study_table(name, study, runs) for name, study in shown.items()]
  first = first_epoch_table(runs)
  made += [first] if first.rows else []
  if 'methods' in shown:
    made.append(_methods(studies, runs))
  made += [deployed_table(cards)] if cards else []
  paths = []
  for table in made:
    show(f'\n## {table.title}\n\n{tables.markdown(table)}')
    paths += tables.write(table, out)
  return paths + figures.write_all(shown, runs, out)


def main(argv: list[str]) -> None:
  """Writes all that the ledger gives, and fills this project's pages."""
  del argv
  arguments = flags.FLAGS
  runs, studies = ledger.read(arguments.results), settings.load_all()
  cards = read_cards(arguments.results)
  out = pathlib.Path(arguments.out)
  for path in write_all(runs, studies, out, print, cards):
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
