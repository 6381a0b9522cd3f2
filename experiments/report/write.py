"""The files of a report: all tables and figures that the ledger gives."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.common.markdown import Table, markdown
from experiments.records import ledger
from experiments.report import comparison, figures, tables
from experiments.report.deployed_table import deployed_table
from experiments.report.first_epoch import first_epoch_table
from experiments.report.method_table import method_table, read_costs
from experiments.report.study_table import study_table
from experiments.study import spec

OUT = 'docs/results'
ROOT = pathlib.Path(__file__).resolve().parents[2]


def all_tables(
  runs: Sequence[ledger.Run],
  studies: Mapping[str, spec.Study],
  cards: Sequence[dict[str, Any]],
) -> dict[str, Callable[[], Table]]:
  """Returns the function that makes each table, by the name of the table.

  Args:
    runs: Runs of the ledger.
    studies: Studies by name.
    cards: Cards of the deployed networks in the ledger.
  """
  makers: dict[str, Callable[[], Table]] = {
    name: functools.partial(study_table, name, study, runs)
    for name, study in studies.items()
  }
  if 'methods' in studies:
    makers['methods-overview'] = lambda: method_table(
      studies['methods'], runs, read_costs(ROOT / ledger.RESULTS)
    )
  return makers | {
    'first-epoch': functools.partial(first_epoch_table, runs),
    'deployed': functools.partial(deployed_table, cards),
  }


def texts(
  runs: Sequence[ledger.Run],
  studies: Mapping[str, spec.Study],
  cards: Sequence[dict[str, Any]],
) -> dict[str, Callable[[], str]]:
  """Returns the function that makes the Markdown of each of `all_tables`."""
  return {
    name: functools.partial(_text, make)
    for name, make in all_tables(runs, studies, cards).items()
  }


def _text(make: Callable[[], Table]) -> str:
  return markdown(make())


def to_show(
  runs: Sequence[ledger.Run], studies: Mapping[str, spec.Study]
) -> dict[str, spec.Study]:
  """Returns the studies with published numbers or with runs in the ledger."""
  return {
    name: study
    for name, study in studies.items()
    if study.drops
    or any(
      comparison.published(study.published, config)
      or comparison.cell(config, runs)
      for config in study.settings.values()
    )
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
    runs: Runs of the ledger.
    studies: Studies by name.
    out: Folder for the files.
    show: Function that receives every table as Markdown.
    cards: Cards of the deployed networks in the ledger.

  Returns:
    The paths of the files.
  """
  shown = to_show(runs, studies)
  paths = []
  for make in all_tables(runs, shown, cards).values():
    table = make()
    if table.rows:
      show(f'\n## {table.title}\n\n{markdown(table)}')
      paths += tables.write(table, out)
  return paths + figures.write_all(shown, runs, out)
