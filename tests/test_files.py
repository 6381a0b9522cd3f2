"""Tests files that are written completely or not at all."""

import concurrent.futures
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

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


def test_write_atomic_of_several_threads_leaves_one_whole_file(tmp_path):
  path = tmp_path / 'file'
  contents = [bytes([i]) * 10_000 for i in range(4)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda c: files.write_atomic(path, c), contents * 20))
  assert path.read_bytes() in contents
  assert os.listdir(tmp_path) == ['file']


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


def test_safetensors_content_equals_library_except_for_order():
  rng = np.random.default_rng(0)
  arrays = {
    'b/kernel': rng.normal(size=(3, 5)).astype(np.float32),
    'a': np.arange(7, dtype=np.uint8),
    'ä"\\ 日': np.zeros((), np.float16),
  }
  texts = {f'text {i}': f'"{i}" \n é 日' for i in range(20)}
  for kept in (texts, {}):
    content = files.safetensors_content(arrays, kept)
    assert len(content) == len(safetensors.numpy.save(arrays, kept or None))
    loaded = safetensors.numpy.load(content)
    assert loaded.keys() == arrays.keys()
    assert all((loaded[k] == arrays[k]).all() for k in arrays)
    end = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:end])
    assert header.get('__metadata__', {}) == kept
    backwards = dict(reversed(kept.items()))
    assert files.safetensors_content(arrays, backwards) == content


def test_safetensors_content_is_equal_in_other_processes():
  program = """
import hashlib, numpy
from mq_jax import files
texts = {str(i): str(i) for i in range(20)}
content = files.safetensors_content({'a': numpy.zeros(3)}, texts)
print(hashlib.sha256(content).hexdigest())
"""
  digests = {
    subprocess.run(
      [sys.executable, '-c', program], capture_output=True, check=True
    ).stdout
    for _ in range(3)
  }
  assert len(digests) == 1
