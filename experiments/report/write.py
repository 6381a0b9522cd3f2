"""The files of a report: all tables and figures that the ledger gives."""

import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.common.errors import InvalidError
from experiments.common.markdown import Table, markdown
from experiments.records import ledger
from experiments.report import figures, tables
from experiments.report.deployed_table import deployed_table
from experiments.report.first_epoch import first_epoch_table
from experiments.report.headline import headline_table
from experiments.report.log_table import log_table
from experiments.report.method_table import method_table, read_costs
from experiments.report.study_table import study_table
from experiments.report.tuned import tuned_table
from experiments.study import spec

OUT = 'docs/results'
ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_tables(
  runs: Sequence[ledger.Run],
  studies: Mapping[str, spec.Study],
  cards: Sequence[dict[str, Any]],
) -> list[Table]:
  """Makes the table of each study, and those that are about no single study.

  Args:
    runs: Runs of the ledger.
    studies: Studies by name.
    cards: Cards of the deployed networks in the ledger.
  """
  made = study_tables(runs, studies)
  if 'methods' in studies:
    costs = read_costs(ROOT / ledger.RESULTS)
    made.append(method_table(studies['methods'], runs, costs))
  made += [log_table(runs), first_epoch_table(runs)]
  made.append(headline_table(studies, runs))
  return [*made, deployed_table(cards)]


def study_tables(
  runs: Sequence[ledger.Run], studies: Mapping[str, spec.Study]
) -> list[Table]:
  """Makes the tables of studies.

  Args:
    runs: Runs of the ledger.
    studies: Studies by name.
  """
  made = [study_table(name, study, runs) for name, study in studies.items()]
  return made + [
    tuned_table(name, study, runs)
    for name, study in studies.items()
    if study.tuned
  ]


def texts(made: Sequence[Table]) -> dict[str, Callable[[], str]]:
  """Returns a function per table that returns its Markdown, by name."""
  return {table.name: functools.partial(markdown, table) for table in made}


def select(made: Sequence[Table], only: str) -> list[Table]:
  """Returns the tables whose names a regular expression matches.

  Raises:
    InvalidError: If no name matches, or `only` is not a regular expression.
  """
  try:
    chosen = [table for table in made if re.fullmatch(only, table.name)]
  except re.error as error:
    raise InvalidError(
      f'--only={only!r} is not a regular expression: {error}'
    ) from error
  if not chosen:
    raise InvalidError(
      f'--only={only!r} matches no table. The tables are'
      f' {", ".join(table.name for table in made)}.'
    )
  return chosen


def is_measured(table: Table) -> bool:
  """Returns True if a table has a row of a run."""
  return any(tables.NO_RUN not in row for row in table.rows)


def write_all(
  made: Sequence[Table],
  runs: Sequence[ledger.Run],
  studies: Mapping[str, spec.Study],
  out: pathlib.Path,
  show: Callable[[str], None] = lambda text: None,
) -> list[pathlib.Path]:
  """Writes each table that has a measured number, and the figures.

  Args:
    made: Tables of `make_tables`.
    runs: Runs of the ledger.
    studies: Studies by name.
    out: Folder for the files.
    show: Function that receives every table as Markdown.

  Returns:
    The paths of the files.
  """
  paths = []
  for table in made:
    if is_measured(table):
      show(f'\n## {table.title}\n\n{markdown(table)}')
      paths += tables.write(table, out)
  return paths + figures.write_all(studies, runs, out)
