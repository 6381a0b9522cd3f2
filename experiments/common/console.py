"""What a person sees of a run at its end: a table."""

import os
import statistics
from collections.abc import Mapping, Sequence

import rich.console
import rich.table
import rich.text


def final_table(
  rows: Mapping[str, str],
  title: str = '',
  console: rich.console.Console | None = None,
) -> None:
  """Prints rows of a name and a value as a table.

  A value too long for the console, such as a path, goes below the table in one
  piece, so that it can be copied.

  Args:
    rows: name -> value.
    title: above the table.
    console: where to print; standard output by default.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(title=title or None, show_header=False)
  table.add_column(no_wrap=True)
  table.add_column(no_wrap=True, justify='right')
  widest = max(len(name) for name in rows)
  borders = 7
  room = console.width - widest - borders
  below = {k: v for k, v in rows.items() if len(v) > room}
  for name, value in rows.items():
    if name not in below:
      table.add_row(name, rich.text.Text(value))
  console.print(table)
  for name, value in below.items():
    line = rich.text.Text(f'{name}: {value}')
    console.print(line, soft_wrap=True, highlight=False)


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
  """Prints what a finished run has to show.

  Args:
    base_accuracy: of the base model, percent; None without one.
    last_accuracy: mean test accuracy of the last epochs, percent.
    best_accuracy: best test accuracy of an epoch, percent.
    seconds_per_epoch: mean over the epochs.
    model_path: the file with the quantized parameters.
    last_epochs: how many epochs `last_accuracy` is the mean of.
    trial_accuracies: of each trial, percent; shown where there are several.
    console: where to print; standard output by default.
  """
  epochs = 'epoch' if last_epochs == 1 else f'{last_epochs} epochs'
  base = base_accuracy
  rows = {
    **(
      {} if base is None else {'full-precision test accuracy': f'{base:.2f}%'}
    ),
    f'test accuracy, mean of the last {epochs}': f'{last_accuracy:.2f}%',
    **_trial_rows(trial_accuracies),
    'test accuracy, best epoch': f'{best_accuracy:.2f}%',
    'seconds per epoch': f'{seconds_per_epoch:#.3g}',
    'quantized parameters': os.fspath(model_path),
  }
  final_table(rows, console=console)


def _trial_rows(accuracies: Sequence[float]) -> dict[str, str]:
  if len(accuracies) < 2:
    return {}
  return {
    f'its deviation over {len(accuracies)} trials': (
      f'{statistics.stdev(accuracies):.2f}%'
    ),
    'the trials': ', '.join(f'{a:.2f}%' for a in accuracies),
  }
