"""Tests additions to files, and their hashes."""

import hashlib
import os

from experiments.common import files


def test_append_writes_at_end_and_syncs(tmp_path, monkeypatch):
  synced = []
  fsync = os.fsync
  monkeypatch.setattr(os, 'fsync', lambda n: (synced.append(n), fsync(n)))
  path = tmp_path / 'file'
  for content in (b'a', b'b'):
    files.append(path, content)
  assert path.read_bytes() == b'ab'
  assert len(synced) == 2


def test_remove_leftovers_keeps_files_of_running_processes(tmp_path):
  running, ended = os.getpid(), 2**22 + 1
  for number in (running, ended):
    (tmp_path / f'.set.npz.{number}.partial').touch()
  (tmp_path / 'set.npz').touch()
  files.remove_leftovers(tmp_path, mine=False)
  left = tmp_path / f'.set.npz.{running}.partial'
  assert sorted(tmp_path.iterdir()) == [left, tmp_path / 'set.npz']
  # Another process has the number by now.
  os.utime(left, (0, 0))
  files.remove_leftovers(tmp_path, mine=False)
  assert os.listdir(tmp_path) == ['set.npz']
  files.remove_leftovers(tmp_path / 'missing', mine=False)


def test_remove_old_folders_keeps_new_and_other_folders(tmp_path):
  for name in ('.new-1', '.new-2', 'other'):
    (tmp_path / name / 'inner').mkdir(parents=True)
  for name in ('.new-1', 'other'):
    os.utime(tmp_path / name, (0, 0))
  files.remove_old_folders(tmp_path, '.new-')
  assert sorted(os.listdir(tmp_path)) == ['.new-2', 'other']


def test_sha256_equals_digest_of_content(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'abc')
  assert files.sha256(path) == hashlib.sha256(b'abc').hexdigest()
