"""Writes tables and figures, and fills the tables of Markdown pages."""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.records import ledger
from experiments.report import comparison, figures, tables
from experiments.report.deployed_table import deployed_table, read_cards
from experiments.report.first_epoch import first_epoch_table
from experiments.report.method_table import method_table, read_costs
from experiments.report.study_table import study_table
from experiments.study import spec

OUT = 'docs/results'
_MARKED = re.compile(
  r'(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)', re.DOTALL
)
ROOT = pathlib.Path(__file__).resolve().parents[2]


def all_tables(
  runs: Sequence[ledger.Run], studies: Mapping[str, spec.Study]
) -> dict[str, Callable[[], tables.Table]]:
  """Name to what makes the table."""

  def of(name: str) -> Callable[[], tables.Table]:
    return lambda: study_table(name, studies[name], runs)

  made = {name: of(name) for name in studies}
  if 'methods' in studies:
    made['methods-overview'] = lambda: _methods(studies, runs)
  return made | {
    'first-epoch': lambda: first_epoch_table(runs),
    'deployed': lambda: deployed_table(read_cards(ROOT / ledger.RESULTS)),
  }


def _methods(
  studies: Mapping[str, spec.Study], runs: Sequence[ledger.Run]
) -> tables.Table:
  return method_table(
    studies['methods'], runs, read_costs(ROOT / ledger.RESULTS)
  )


def fill(
  page: str,
  runs: Sequence[ledger.Run],
  studies: Mapping[str, spec.Study],
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
  runs: Sequence[ledger.Run], studies: Mapping[str, spec.Study]
) -> dict[str, spec.Study]:
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
  studies: Mapping[str, spec.Study],
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
