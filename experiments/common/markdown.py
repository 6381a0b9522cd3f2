"""Makes Markdown tables, and fills the text between markers in pages."""

import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple


class Table(NamedTuple):
  """Rows of text under column names.

  Attributes:
    name: Name of the table's files, without a suffix.
    title: Line above the table.
    columns: Column names.
    rows: One text per column in each row.
    note: Lines below the table.
  """

  name: str
  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ''


def markdown(table: Table) -> str:
  """Returns the table and its note, without the title.

  A table without rows is left out.
  """
  if not table.rows:
    return f'{table.note}\n'
  text = '\n'.join(table_lines(table.columns, table.rows))
  return f'{text}\n\n{table.note}\n' if table.note else f'{text}\n'


def table_lines(
  columns: Sequence[str], rows: Iterable[Sequence[str]], aligned: bool = False
) -> list[str]:
  """Returns the lines of a Markdown table.

  Args:
    columns: Column names.
    rows: One text per column in each row.
    aligned: Pad the cells, so that the columns line up in a terminal.
  """
  cells = [
    [text.replace('|', r'\|') for text in row] for row in (columns, *rows)
  ]
  widths = [3] * len(columns)
  if aligned:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells = [
      [text.ljust(width) for text, width in zip(row, widths, strict=True)]
      for row in cells
    ]
  cells.insert(1, ['-' * width for width in widths])
  return [f'| {" | ".join(row)} |' for row in cells]


def fill(page: str, kind: str, texts: Mapping[str, Callable[[], str]]) -> str:
  """Returns the page with the text of every marker replaced.

  A marked text begins after `<!-- KIND: NAME -->` and ends at `<!-- end -->`.

  Args:
    page: Markdown.
    kind: Kind of the markers to fill.
    texts: Function that makes the text of each name.

  Raises:
    ValueError: If a marker has a name that is not in `texts`, or its text has
      no end.
  """

  def replacement(match: re.Match[str]) -> str:
    name = match['name']
    if name not in texts:
      raise ValueError(
        f'There is no {kind} called {name!r}. Use one of {sorted(texts)}.'
      )
    if match[3] != '<!-- end -->':
      raise ValueError(
        f'The {kind} {name!r} has no <!-- end --> before the next marker or the'
        ' end of the page. Add the line <!-- end --> below it.'
      )
    return f'{match[1]}{texts[name]()}{match[3]}'

  marker = r'<!-- (?:end|\w+: \S+) -->'
  marked = rf'(<!-- {kind}: (?P<name>\S+) -->\n).*?({marker}|\Z)'
  return re.sub(marked, replacement, page, flags=re.DOTALL)


def fill_files(
  paths: Iterable[pathlib.Path],
  kind: str,
  texts: Mapping[str, Callable[[], str]],
) -> list[pathlib.Path]:
  """Fills the markers of pages in place; returns the paths that changed."""
  changed = []
  for path in paths:
    page = path.read_text(encoding='utf-8')
    filled = fill(page, kind, texts)
    if filled != page:
      path.write_text(filled, encoding='utf-8')
      changed.append(path)
  return changed
