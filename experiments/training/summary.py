"""Prints the result of a run."""

import statistics

from rich.console import Console

from experiments.common.console import final_table
from experiments.records.run_log import last_epochs
from experiments.training.train import Result


def print_summary(result: Result, console: Console | None = None) -> None:
  """Prints the result of a complete run as a table.

  Args:
    result: Result of the run.
    console: Where to print; standard output by default.
  """
  count, trials = len(last_epochs(result.records)), result.trial_accuracies
  epochs = 'epoch' if count == 1 else f'{count} epochs'
  rows = {}
  if result.base_accuracy is not None:
    rows['full-precision test accuracy'] = f'{result.base_accuracy:.2f}%'
  mean = f'{result.last_accuracy:.2f}%'
  rows[f'test accuracy, mean of the last {epochs}'] = mean
  if len(trials) > 1:
    deviation = statistics.stdev(trials)
    rows[f'standard deviation over {len(trials)} trials'] = f'{deviation:.2f}%'
    rows['each trial'] = ', '.join(f'{accuracy:.2f}%' for accuracy in trials)
  rows['test accuracy, best epoch'] = f'{result.best_accuracy:.2f}%'
  rows['seconds per epoch'] = f'{result.seconds_per_epoch:#.3g}'
  rows['quantized parameters'] = str(result.model_path)
  final_table(rows, console)
