"""Tests files that are written completely or not at all."""

import os

import pytest

from mq_jax import files


def test_write_atomic_creates_folders_and_replaces(tmp_path):
  path = tmp_path / 'new' / 'file'
  for content in (b'first', b'2'):
    files.write_atomic(path, content)
    assert path.read_bytes() == content
  assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_write_atomic_disk_error_keeps_old_file(
  tmp_path, monkeypatch, function
):
  path = tmp_path / 'file'
  path.write_bytes(b'old')

  def fail(*args):
    raise OSError('no space left')

  monkeypatch.setattr(os, function, fail)
  with pytest.raises(OSError, match='no space'):
    files.write_atomic(path, b'new')
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['file']


def test_open_atomic_error_inside_keeps_old_file(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'old')

  def write_and_fail():
    with files.open_atomic(path) as file:
      file.write(b'new')
      raise KeyError

  with pytest.raises(KeyError):
    write_and_fail()
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['file']


def test_open_atomic_file_is_absent_until_complete(tmp_path):
  path = tmp_path / 'file'
  with files.open_atomic(path) as file:
    file.write(b'new')
    assert not path.exists()
  assert path.read_bytes() == b'new'


def test_write_atomic_renames_only_complete_file(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'a.bin'
  written = []

  def synced(descriptor):
    (partial,) = os.listdir(path.parent)
    written.append((partial, os.fstat(descriptor).st_size))

  monkeypatch.setattr(os, 'fsync', synced)
  files.write_atomic(path, b'12345')
  ((name, size),) = written
  assert name != path.name
  assert size == 5
  assert os.listdir(path.parent) == ['a.bin']
  assert path.read_bytes() == b'12345'
