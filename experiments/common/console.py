"""Prints lines and tables for the user of a command."""

import os
import statistics
from collections.abc import Mapping, Sequence

import rich.console
import rich.table
import rich.text


def print_line(console: rich.console.Console, text: str) -> None:
  """Prints text without markup or colours, in one piece even where it wraps."""
  console.print(rich.text.Text(text), soft_wrap=True, highlight=False)


def final_table(
  rows: Mapping[str, str],
  title: str = '',
  console: rich.console.Console | None = None,
) -> None:
  """Prints rows of a name and a value as a table.

  A value too long for the console, such as a path, goes below the table in one
  piece, so that it can be copied.

  Args:
    rows: Name to value.
    title: Title of the table.
    console: Where to print; standard output by default.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(title=title or None, show_header=False)
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


def print_summary(
  base_accuracy: float | None,
  last_accuracy: float,
  best_accuracy: float,
  seconds_per_epoch: float,
  model_path: str | os.PathLike[str],
  *,
  last_epochs: int = 10,
  trial_accuracies: Sequence[float] = (),
  console: rich.console.Console | None = None,
) -> None:
  """Prints the results of a finished run.

  Args:
    base_accuracy: Test accuracy of the base model, percent; None without one.
    last_accuracy: Mean test accuracy of the last epochs, percent.
    best_accuracy: Best test accuracy of an epoch, percent.
    seconds_per_epoch: Mean over the epochs.
    model_path: File with the quantized parameters.
    last_epochs: Number of epochs that `last_accuracy` is the mean of.
    trial_accuracies: Accuracy of each trial, percent; printed if there are
      several trials.
    console: Where to print; standard output by default.
  """
  epochs = 'epoch' if last_epochs == 1 else f'{last_epochs} epochs'
  rows = {}
  if base_accuracy is not None:
    rows['full-precision test accuracy'] = f'{base_accuracy:.2f}%'
  rows[f'test accuracy, mean of the last {epochs}'] = f'{last_accuracy:.2f}%'
  trials = trial_accuracies
  if len(trials) > 1:
    deviation = statistics.stdev(trials)
    rows[f'standard deviation over {len(trials)} trials'] = f'{deviation:.2f}%'
    rows['each trial'] = ', '.join(f'{accuracy:.2f}%' for accuracy in trials)
  rows['test accuracy, best epoch'] = f'{best_accuracy:.2f}%'
  rows['seconds per epoch'] = f'{seconds_per_epoch:#.3g}'
  rows['quantized parameters'] = os.fspath(model_path)
  final_table(rows, console=console)
