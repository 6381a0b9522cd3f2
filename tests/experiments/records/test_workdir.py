"""Tests the lookup of runs in folders, and the locks of folders."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from experiments.common import errors
from experiments.configs import digits
from experiments.records import workdir


def test_is_complete_model_file_without_log_returns_false(tmp_path):
  config = digits.get_config()
  workdir.model_path(tmp_path, config).touch()
  assert not workdir.is_complete(tmp_path, config)


HOLD = """
import sys, time
from experiments.records import workdir
with workdir.lock(sys.argv[1]):
  print('locked', flush=True)
  time.sleep(60)
"""


def test_lock_second_holder_raises_and_names_process(tmp_path):
  folder = tmp_path / 'run'
  with workdir.lock(folder):
    with (
      pytest.raises(errors.BusyError) as error,
      workdir.lock(folder),
    ):
      pytest.fail('The folder is locked twice.')
    message = str(error.value)
    holder = f'process {os.getpid()} on {socket.gethostname()}'
    assert f'{folder} is in use by {holder}.' in message
    assert 'another --workdir' in message
  # Nothing remains, and the folder can be locked again.
  assert not folder.exists()
  with workdir.lock(folder):
    (folder / 'file').touch()
  assert os.listdir(folder) == ['file']


@pytest.mark.slow
def test_lock_of_killed_process_vanishes(tmp_path):
  child = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert child.stdout.readline() == 'locked\n'
  with (
    pytest.raises(errors.BusyError, match=f'process {child.pid} on'),
    workdir.lock(tmp_path),
  ):
    pytest.fail('The folder is locked twice.')
  child.send_signal(signal.SIGKILL)
  child.wait()
  child.stdout.close()
  assert os.listdir(tmp_path) == [workdir.LOCK]
  with workdir.lock(tmp_path):
    pass
  assert os.listdir(tmp_path) == []


def test_lock_removed_while_waiting_is_taken_anew(tmp_path, monkeypatch):
  try_lock = workdir.files.try_lock
  calls = []

  def lock_of_removed_file(file):
    calls.append(file)
    if len(calls) == 1:
      # The last holder ends between the opening and the lock.
      (tmp_path / workdir.LOCK).unlink()
    return try_lock(file)

  monkeypatch.setattr(workdir.files, 'try_lock', lock_of_removed_file)
  with workdir.lock(tmp_path):
    assert len(calls) == 2
    with pytest.raises(errors.BusyError), workdir.lock(tmp_path):
      pytest.fail('The folder is locked twice.')


def test_lock_file_system_without_locks_warns(tmp_path, monkeypatch, capsys):
  def no_locks(file):
    raise OSError(workdir.errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(workdir.files, 'try_lock', no_locks)
  with workdir.lock(tmp_path):
    pass
  assert 'cannot be locked (No locks available)' in capsys.readouterr().out


def test_lock_removes_incomplete_files(tmp_path):
  # The number of a killed process may belong to another process by now.
  for number in (os.getpid(), 1, 2**22 + 1):
    (tmp_path / f'.model.safetensors.{number}.partial').touch()
  for name in ('mine.partial', '.mine.partial'):
    (tmp_path / name).touch()
  with workdir.lock(tmp_path):
    pass
  assert sorted(os.listdir(tmp_path)) == ['.mine.partial', 'mine.partial']


@pytest.mark.parametrize('inner', ['', 'run'])
def test_lock_file_in_place_of_folder_raises(tmp_path, inner):
  place = tmp_path / 'file'
  place.write_text('mine')
  with (
    pytest.raises(errors.InvalidError, match='is a file, not a folder'),
    workdir.lock(place / inner),
  ):
    pytest.fail('A file is locked.')
  assert place.read_text() == 'mine'
