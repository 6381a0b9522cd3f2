"""Tests the tables that commands print."""

import io

import pytest
from rich.console import Console

from experiments.common.console import final_table


@pytest.mark.parametrize('spare', [0, 1])
def test_final_table_value_fits_up_to_last_column(spare):
  out = io.StringIO()
  console = Console(file=out, width=40)
  value = 'x' * (40 - len('name') - 7 + spare)
  final_table({'name': value}, console)
  lines = out.getvalue().splitlines()
  if spare:
    assert lines[-1] == f'name: {value}'
  else:
    assert f'│ name │ {value} │' in lines


def test_final_table_narrow_console_wraps_names_and_keeps_values():
  out = io.StringIO()
  final_table(
    {'test accuracy, mean of the last 10 epochs': '100.00%', 'x': 'y' * 40},
    Console(file=out, width=44),
  )
  lines = out.getvalue().splitlines()
  assert sum('100.00%' in line for line in lines) == 1
  assert lines[-1] == f'x: {"y" * 40}'
  assert all(len(line) <= 44 for line in lines)


def test_final_table_without_room_has_no_frame():
  out = io.StringIO()
  final_table({'name': 'x' * 50}, Console(file=out, width=30))
  assert out.getvalue() == f'name: {"x" * 50}\n'
