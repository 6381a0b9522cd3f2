"""Tests that planted bugs are found, and only with tests that pass before."""

import json

import pytest

from benchmarks import mutants
from benchmarks.mutant_list import Mutant

KILLED = Mutant('plain_code.py', 'sum', 'A = 1', 'A = 2', 'test_code.py')
SURVIVOR = Mutant('plain_code.py', 'unread', 'B = 1', 'B = 2', 'test_code.py')


@pytest.fixture
def code(tmp_path, monkeypatch):
  """Replaces the repository by one module and one test."""
  (tmp_path / 'plain_code.py').write_text('A = 1\nB = 1\n')
  test = tmp_path / 'test_code.py'
  test.write_text(
    'import plain_code\n\ndef test_a():\n  assert plain_code.A == 1\n'
  )
  monkeypatch.setattr(mutants, 'ROOT', tmp_path)
  monkeypatch.setattr(mutants, 'COPIED', ('plain_code.py', test.name))
  # The plugins of pytest take longer than the test.
  monkeypatch.setenv('PYTEST_DISABLE_PLUGIN_AUTOLOAD', '1')
  return tmp_path


def test_run_finds_killed_and_surviving_bugs_once(code, monkeypatch):
  done = code / 'done.jsonl'
  found = mutants.run([KILLED, SURVIVOR], 2, done)
  assert found == {KILLED: True, SURVIVOR: False}
  results = map(json.loads, done.read_text().splitlines())
  assert {(result['bug'], result['killed']) for result in results} == {
    ('sum', True),
    ('unread', False),
  }
  renamed = KILLED._replace(bug='A is 2')
  monkeypatch.setattr(mutants, '_test', lambda *args: (mutants.PASSED, ''))
  found = mutants.run([renamed, SURVIVOR._replace(new='B = 3')], 1, done)
  assert list(found.values()) == [True, False]
  assert len(done.read_text().splitlines()) == 3


def test_run_tests_that_fail_on_unchanged_code_exits(code):
  (code / 'test_code.py').write_text('def test_a():\n  assert False\n')
  with pytest.raises(SystemExit, match='must pass on unchanged code'):
    mutants.run([KILLED], 1)


def test_mutated_every_listed_bug_applies_and_compiles():
  for mutant in mutants.MUTANTS:
    compile(mutants.mutated(mutant), mutant.module, 'exec')
  assert len(set(map(mutants._identity, mutants.MUTANTS))) == len(
    mutants.MUTANTS
  )
