"""Prints lines and tables for the user of a command."""

from collections.abc import Mapping

import rich.console
import rich.table
import rich.text


def print_line(console: rich.console.Console, text: str) -> None:
  """Prints text without markup or colours, in one piece even where it wraps."""
  console.print(rich.text.Text(text), soft_wrap=True, highlight=False)


def counted(number: int, noun: str) -> str:
  """Returns a number with its noun, such as '1 epoch' or '2 epochs'."""
  return f'{number:,} {noun}' + 's' * (number != 1)


def final_table(
  rows: Mapping[str, str], console: rich.console.Console | None = None
) -> None:
  """Prints rows of a name and a value as a table.

  A value too long for the console, such as a path, goes below the table in one
  piece, so that it can be copied. Names may wrap.

  Args:
    rows: Name to value.
    console: Where to print; standard output by default.
  """
  console = console or rich.console.Console()
  borders, least = 7, 16
  # In a narrow terminal, names wrap and values stay in one piece.
  names = max(least, console.width - borders - least)
  names = min(names, max(len(name) for name in rows))
  room = console.width - borders - names
  fitting = {name: value for name, value in rows.items() if len(value) <= room}
  if fitting:
    table = rich.table.Table(show_header=False)
    table.add_column(max_width=names)
    table.add_column(no_wrap=True, justify='right')
    for name, value in fitting.items():
      table.add_row(name, rich.text.Text(value))
    console.print(table)
  for name, value in rows.items():
    if name not in fitting:
      print_line(console, f'{name}: {value}')
