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


def test_sha256_equals_digest_of_content(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'abc')
  assert files.sha256(path) == hashlib.sha256(b'abc').hexdigest()
