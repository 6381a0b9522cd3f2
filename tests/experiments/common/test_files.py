"""Tests files: written completely or not at all, and identified by content."""

import hashlib
import os

import pytest

from experiments.common import files


def test_write_whole_creates_folders_and_replaces(tmp_path):
  path = tmp_path / 'new' / 'file'
  for content in (b'first', b'2'):
    files.write_whole(path, content)
    assert path.read_bytes() == content
  assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_write_whole_disk_error_keeps_old_file(tmp_path, monkeypatch, function):
  path = tmp_path / 'file'
  path.write_bytes(b'old')

  def fail(*args):
    raise OSError('no space left')

  monkeypatch.setattr(os, function, fail)
  with pytest.raises(OSError, match='no space'):
    files.write_whole(path, b'new')
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['file']


def test_open_whole_error_inside_keeps_old_file(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'old')

  def write_and_fail():
    with files.open_whole(path) as file:
      file.write(b'new')
      raise KeyError

  with pytest.raises(KeyError):
    write_and_fail()
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['file']


def test_open_whole_file_is_absent_until_complete(tmp_path):
  path = tmp_path / 'file'
  with files.open_whole(path) as file:
    file.write(b'new')
    assert not path.exists()
  assert path.read_bytes() == b'new'


def test_append_writes_at_end_and_syncs(tmp_path, monkeypatch):
  synced = []
  fsync = os.fsync
  monkeypatch.setattr(os, 'fsync', lambda n: (synced.append(n), fsync(n)))
  path = tmp_path / 'file'
  for content in (b'a', b'b'):
    files.append(path, content)
  assert path.read_bytes() == b'ab'
  assert len(synced) == 2


def test_sha256_equals_digest_of_content(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'abc')
  assert files.sha256(path) == hashlib.sha256(b'abc').hexdigest()
