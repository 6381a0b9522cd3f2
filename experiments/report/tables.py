"""A table of text, as Markdown, CSV and LaTeX."""

import csv
import io
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
  """Rows of text.

  Attributes:
    name: Of its files.
    title: A line above it.
    columns: Their names.
    rows: As many texts each.
    note: Lines below it.
  """

  name: str
  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ''


def markdown(table: Table) -> str:
  """The table and its note, without the title."""
  rows = [[cell.replace('|', r'\|') for cell in row] for row in table.rows]
  lines = [table.columns, ['---'] * len(table.columns), *rows]
  text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  return f'{text}\n\n{table.note}\n' if table.note else f'{text}\n'


def comma_separated(table: Table) -> str:
  """Columns and rows, quoted where need be."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(table.columns)
  writer.writerows(table.rows)
  return file.getvalue()


def latex(table: Table) -> str:
  """A `tabular` of the booktabs package in a `table`."""
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
