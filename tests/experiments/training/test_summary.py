"""Tests the table of results that a command prints."""

import io
import pathlib

import pytest
from rich.console import Console

from experiments.training import Result, print_summary


def printed(width, path, trials, top5=None):
  """Returns the lines of the summary of a run of 100 epochs."""
  console = Console(
    record=True, width=width, file=io.StringIO(), legacy_windows=False
  )
  path = pathlib.Path(path)
  result = Result(
    92.13, 91.7349, top5, 10, 100.0, 12.3456, path, None, [{}], trials
  )
  print_summary(result, console)
  return console.export_text().splitlines()


@pytest.mark.parametrize('width', [80, 120])
def test_print_summary_keeps_numbers_in_one_piece(width):
  assert printed(width, 'runs/a/model.npz', [91.7349]) == [
    '┌───────────────────────────────────────────┬──────────────────┐',
    '│ full-precision test accuracy              │           92.13% │',
    '│ test accuracy, mean of the last 10 epochs │           91.73% │',
    '│ test accuracy, best epoch                 │          100.00% │',
    '│ seconds per epoch                         │             12.3 │',
    '│ quantized parameters                      │ runs/a/model.npz │',
    '└───────────────────────────────────────────┴──────────────────┘',
  ]


@pytest.mark.parametrize('width', [80, 120])
def test_print_summary_long_path_goes_below_in_one_piece(width):
  path = '/home/someone/runs/' + 'resnet20_dorefa_1bit_multifc_sgd/' * 3
  path = path.removesuffix('/')
  lines = printed(width, path, [])
  assert lines[-1] == f'quantized parameters: {path}'
  assert {len(line) for line in lines[:-1]} == {len(lines[0])}
  assert len(lines[0]) <= width


def test_print_summary_many_classes_shows_top5():
  cells = [line.strip('│ ').split('│') for line in printed(80, 'a', [1], 97.4)]
  assert ['top-5 test accuracy, mean of these epochs', '97.40%'] in [
    [cell.strip() for cell in row] for row in cells
  ]


def test_print_summary_several_trials_shows_each_and_deviation():
  cells = [line.strip('│ ').split('│') for line in printed(80, 'a', [90, 92])]
  rows = {row[0].strip(): row[-1].strip() for row in cells}
  assert rows['standard deviation over 2 trials'] == '1.41%'
  assert rows['each trial'] == '90.00%, 92.00%'
