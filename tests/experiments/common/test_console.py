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
