"""Prints lines and tables for the user of a command."""

from collections.abc import Mapping

import rich.console
import rich.table
import rich.text


def print_line(console: rich.console.Console, text: str) -> None:
  """Prints text without markup or colours, in one piece even where it wraps."""
  console.print(rich.text.Text(text), soft_wrap=True, highlight=False)


def final_table(
  rows: Mapping[str, str], console: rich.console.Console | None = None
) -> None:
  """Prints rows of a name and a value as a table.

  A value too long for the console, such as a path, goes below the table in one
  piece, so that it can be copied.

  Args:
    rows: Name to value.
    console: Where to print; standard output by default.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(show_header=False)
  table.add_column(no_wrap=True)
  table.add_column(no_wrap=True, justify='right')
  widest = max(len(name) for name in rows)
  borders = 7
  room = console.width - widest - borders
  for name, value in rows.items():
    if len(value) <= room:
      table.add_row(name, rich.text.Text(value))
  console.print(table)
  for name, value in rows.items():
    if len(value) > room:
      print_line(console, f'{name}: {value}')
