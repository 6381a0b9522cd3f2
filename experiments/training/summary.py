"""Prints the result of a run."""

import importlib.util
import pathlib
import shlex
import statistics

from ml_collections import ConfigDict
from rich.console import Console

from experiments.common.console import final_table, print_line
from experiments.data.datasets import DATASETS
from experiments.records.workdir import SCALARS
from experiments.training import smoke
from experiments.training.result import Result


def print_summary(result: Result, console: Console | None = None) -> None:
  """Prints the result of a complete run as a table.

  Args:
    result: Result of the run.
    console: Where to print; standard output by default.
  """
  count, trials = result.last_epochs, result.trial_accuracies
  epochs = 'epoch' if count == 1 else f'{count} epochs'
  rows = {}
  if result.base_accuracy is not None:
    rows['full-precision test accuracy'] = f'{result.base_accuracy:.2f}%'
  mean = f'{result.last_accuracy:.2f}%'
  rows[f'test accuracy, mean of the last {epochs}'] = mean
  if result.last_top5_accuracy is not None:
    top5 = f'{result.last_top5_accuracy:.2f}%'
    rows['top-5 test accuracy, mean of these epochs'] = top5
  if result.bits:
    bits, symbol = result.bits
    rows[f'test bits per {symbol}, mean of these epochs'] = f'{bits:.3f}'
  if len(trials) > 1:
    deviation = statistics.stdev(trials)
    rows[f'standard deviation over {len(trials)} trials'] = f'{deviation:.2f}%'
    rows['each trial'] = ', '.join(f'{accuracy:.2f}%' for accuracy in trials)
  rows['test accuracy, best epoch'] = f'{result.best_accuracy:.2f}%'
  rows['seconds per epoch'] = f'{result.seconds_per_epoch:#.3g}'
  rows['quantized parameters'] = str(result.model_path)
  final_table(rows, console)


def print_next_commands(
  config: ConfigDict, workdir: pathlib.Path, *, is_smoke: bool = False
) -> None:
  """Prints the commands that use a complete run.

  Args:
    config: Configuration of the run.
    workdir: Folder of the run.
    is_smoke: The run was a smoke run.
  """
  folder = shlex.quote(str(workdir))
  install = ''
  if importlib.util.find_spec('tensorboard') is None:
    install = '  (pip install tensorboard)'
  lines = [f'tensorboard --logdir={folder}/{SCALARS}{install}']
  if config.quantizer != 'none' and DATASETS[config.dataset].symbol:
    lines.append(f'python -m experiments.sample --workdir={folder}')
  if config.quantizer != 'none':
    if is_smoke:
      folder = shlex.quote(str(smoke.run_folder(workdir)))
    lines.append(
      f'python -m experiments.deploy --workdir={folder} --out=small'
      + ' --smoke' * is_smoke
    )
  console = Console()
  print_line(console, 'Next commands, to see curves and to use the network:')
  for line in lines:
    print_line(console, f'  {line}')
