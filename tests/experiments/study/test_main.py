"""Tests the flags of the command that runs studies."""

import pathlib
import types

import pytest

from experiments.study import __main__ as command
from experiments.training import smoke

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def call(monkeypatch, tmp_path):
  """Returns a function that calls the command on a folder with some flags."""

  def call(**changes):
    values = {
      'study': str(ROOT / 'experiments/studies/digits.py'),
      'workdir': str(tmp_path / 'run'),
      'results': '',
      'pretrained': '',
      'data_dir': '',
      'only': '',
      'trials': None,
      'epochs': None,
      'budget': '',
      'smoke': True,
      'list': False,
      'launch': None,
      'launch_jobs': None,
      'launch_params': '',
    }
    arguments = types.SimpleNamespace(**{**values, **changes})
    monkeypatch.setattr(command.flags, 'FLAGS', arguments)
    command.main(['study'])

  return call


@pytest.mark.parametrize(
  ('name', 'value'), [('results', 'ledger'), ('trials', 2), ('epochs', 3)]
)
def test_main_smoke_with_flag_without_effect_exits(call, tmp_path, name, value):
  with pytest.raises(SystemExit, match=f'leave out --{name}'):
    call(**{name: value})
  assert list(tmp_path.iterdir()) == []


def test_main_smoke_list_reads_folder_of_smoke_run(call, tmp_path, monkeypatch):
  folders = []

  def jobs(name, settings, trials, runs, workdir, *, together):
    folders.append(workdir)
    return []

  monkeypatch.setattr(command.plan, 'jobs', jobs)
  path = smoke.empty_smoke_folder(tmp_path / 'run')
  (path / 'log').touch()
  call(list=True)
  assert folders == [path]
  assert (path / 'log').exists()
