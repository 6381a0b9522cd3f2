"""Tests the tables that commands print."""

import io

import pytest
from rich.console import Console

from experiments.common.console import final_table, print_summary

LONG_PATH = '/home/someone/runs/' + 'resnet20_dorefa_1bit_multifc_sgd/' * 3


@pytest.mark.parametrize('width', [80, 120])
def test_print_summary_does_not_wrap_numbers(width: int) -> None:
  console = Console(
    record=True, width=width, file=io.StringIO(), legacy_windows=False
  )
  print_summary(
    92.13, 91.7349, 100.0, 12.3456, 'runs/a/model.npz', console=console
  )
  assert console.export_text().splitlines() == [
    '┌───────────────────────────────────────────┬──────────────────┐',
    '│ full-precision test accuracy              │           92.13% │',
    '│ test accuracy, mean of the last 10 epochs │           91.73% │',
    '│ test accuracy, best epoch                 │          100.00% │',
    '│ seconds per epoch                         │             12.3 │',
    '│ quantized parameters                      │ runs/a/model.npz │',
    '└───────────────────────────────────────────┴──────────────────┘',
  ]


@pytest.mark.parametrize('width', [80, 120])
def test_print_summary_long_path_is_on_a_line_of_its_own(width: int) -> None:
  console = Console(record=True, width=width, file=io.StringIO())
  print_summary(1.0, 2.0, 3.0, 4.0, LONG_PATH, console=console)
  lines = console.export_text().splitlines()
  assert lines[-1] == f'quantized parameters: {LONG_PATH}'
  assert {len(line) for line in lines[:-1]} == {len(lines[0])}
  assert len(lines[0]) <= width


@pytest.mark.parametrize('spare', [0, 1])
def test_final_table_value_fits_up_to_last_column(spare: int) -> None:
  out = io.StringIO()
  console = Console(file=out, width=40)
  value = 'x' * (40 - len('name') - 7 + spare)
  final_table({'name': value}, 'A title', console=console)
  lines = out.getvalue().splitlines()
  assert lines[0].strip() == 'A title'
  if spare:
    assert lines[-1] == f'name: {value}'
  else:
    assert f'│ name │ {value} │' in lines
