"""The texts of tables, and their files: Markdown, CSV and LaTeX."""

import csv
import io
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.common.console import counted
from experiments.common.markdown import Table, markdown

NO_RUN = 'no run'


def make_table(
  name: str, title: str, rows: Sequence[Mapping[str, str]], note: str = ''
) -> Table:
  """Returns the table of rows that map each column name to a text."""
  columns = list(rows[0]) if rows else []
  return Table(name, title, columns, [[*row.values()] for row in rows], note)


def join_distinct(values: Iterable[Any]) -> str:
  """Returns each value once, in ascending order."""
  return ', '.join(map(str, sorted(set(values))))


def join_conditions(values: Mapping[str, Iterable[Any]]) -> str:
  """Returns each name with its distinct values."""
  return '; '.join(f'{name} {join_distinct(v)}' for name, v in values.items())


def without_run(missing: int, settings: int) -> str:
  """Returns the sentence on settings that have no run; '' if none is missing.

  Args:
    missing: Number of settings without a run.
    settings: Number of all settings.
  """
  if not missing:
    return ''
  of = counted(settings, 'setting')
  return f' {missing} of {of} {"has" if missing == 1 else "have"} no run yet.'


def comma_separated(table: Table) -> str:
  """Returns the columns and rows as CSV, quoted where necessary."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(table.columns)
  writer.writerows(table.rows)
  return file.getvalue()


def latex(table: Table) -> str:
  """Returns a LaTeX `table` with a `tabular` of the booktabs package."""
  rows = [' & '.join(map(_escaped, row)) + r' \\' for row in table.rows]
  return '\n'.join(
    (
      r'\begin{table}',
      r'\centering',
      rf'\caption{{{_escaped(table.title)}. {_escaped(table.note)}}}',
      r'\begin{tabular}{' + 'l' * len(table.columns) + '}',
      r'\toprule',
      ' & '.join(map(_escaped, table.columns)) + r' \\',
      r'\midrule',
      *rows,
      r'\bottomrule',
      r'\end{tabular}',
      r'\end{table}',
      '',
    )
  )


def write(table: Table, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes `NAME.md`, `NAME.csv` and `NAME.tex`; returns their paths."""
  folder.mkdir(parents=True, exist_ok=True)
  texts = {
    'md': f'# {table.title}\n\n{markdown(table)}',
    'csv': comma_separated(table),
    'tex': latex(table),
  }
  paths = []
  for suffix, text in texts.items():
    path = folder / f'{table.name}.{suffix}'
    path.write_text(text, encoding='utf-8')
    paths.append(path)
  return paths


_LATEX = {
  '\\': r'\textbackslash{}',
  '±': r'$\pm$',
  '−': r'$-$',
  'α': r'$\alpha$',
  'γ': r'$\gamma$',
  'φ': r'$\phi$',
  'λ': r'$\lambda$',
  'ρ': r'$\rho$',
  '·': r'$\cdot$',
  '→': r'$\rightarrow$',
  '|': r'\textbar{}',
  '…': r'\ldots{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
} | {c: f'\\{c}' for c in '&%$#_{}'}


def _escaped(text: str) -> str:
  pattern = '[' + re.escape(''.join(_LATEX)) + ']'
  return re.sub(pattern, lambda m: _LATEX[m[0]], text.replace('`', ''))
