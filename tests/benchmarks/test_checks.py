"""Tests that the benchmarks of mistakes and kills fail when they must."""

import pytest

from benchmarks import kills, mistakes


def test_check_equal_different_run_exits():
  equal = kills.KilledRun(['none', 'a checkpoint of the run'], True)
  different = kills.KilledRun(['none'], False)
  kills.check_equal([equal])
  with pytest.raises(SystemExit, match='1 of 2 runs differ'):
    kills.check_equal([equal, different])
  # A run that finished before its first kill also counts.
  with pytest.raises(SystemExit, match='1 of 1 runs differ'):
    kills.check_equal([kills.KilledRun([], False)])
  assert kills.rows([equal, different]) == [
    {
      'last finished work': 'a checkpoint of the run',
      'kills': 1,
      'of runs that are equal': 1,
    },
    {'last finished work': 'none', 'kills': 2, 'of runs that are equal': 1},
  ]


@pytest.mark.parametrize(
  'code', ["PARAMS['kernle']", 'jnp.ones(3) @ jnp.ones(4)']
)
def test_in_library_error_of_other_code_exits(code):
  with pytest.raises(SystemExit, match='fails outside of mq_jax'):
    mistakes.in_library(code)


def test_in_library_error_of_library_is_returned():
  assert mistakes.in_library('mq_jax.dorefa(bits=9)').startswith('ValueError')
  assert mistakes.in_library('mq_jax.dorefa(bits=8)') == ''
