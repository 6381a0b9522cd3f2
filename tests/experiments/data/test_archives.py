"""Tests that crafted archives are refused in bounded time and memory."""

import gzip
import io
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from experiments.common.errors import InvalidError
from experiments.data import archives, cifar_archives
from experiments.data.archives import SourceError
from experiments.records import torch_file
from tests.experiments.data import cifar_files

MEGABYTE = 2**20
# Each attack below is stopped before this.
SIZE = 1024 * MEGABYTE


def header(name='cifar/data_batch_1.bin', kind=tarfile.REGTYPE, size=0):
  member = tarfile.TarInfo(name)
  member.type, member.size = kind, size
  return member.tobuf(tarfile.GNU_FORMAT)


def record(key, value):
  """Returns a record of an extended header, without its length."""
  text = f' {key}={value}\n'.encode()
  length = len(text) + 2
  length += len(str(length)) - 2 if length > 99 else 0
  return str(length).encode() + text


def extended(*records, kind=tarfile.XHDTYPE):
  content = b''.join(records)
  padding = -len(content) % 512
  return header('x', kind, len(content)) + content + bytes(padding)


def many(block, start=b''):
  """Returns a gzip file of a block, repeated to `SIZE` bytes."""
  count = MEGABYTE // len(block)
  part = gzip.compress(block * count, 9, mtime=0)
  return gzip.compress(start, mtime=0) + part * (SIZE // (count * len(block)))


def sparse_map(numbers):
  fields = (('GNU.sparse.major', 1), ('GNU.sparse.minor', 0))
  return (
    extended(*(record(*field) for field in fields)) + header(size=512) + numbers
  )


# The content of each archive, and a part of the message.
ATTACKS = {
  'long file': (
    lambda: many(bytes(512), header(size=SIZE)),
    'expands to more than 536870912 bytes',
  ),
  'long end': (lambda: many(bytes(512), bytes(1024)), 'expands to more than'),
  'members': (lambda: many(header()), 'more than 100 headers'),
  'links': (
    lambda: many(header('a', tarfile.SYMTYPE)),
    'more than 100 headers',
  ),
  'extended headers': (
    lambda: many(extended(record('comment', 'a'))),
    'more than 100 headers',
  ),
  'global headers': (
    lambda: many(extended(record('comment', 'a'), kind=tarfile.XGLTYPE)),
    'more than 100 headers',
  ),
  'long extended header': (
    lambda: many(b'9' * 512, header('x', tarfile.XHDTYPE, SIZE)),
    f'header of {SIZE} bytes',
  ),
  'long name': (
    lambda: many(b'a' * 512, header('x', tarfile.GNUTYPE_LONGNAME, SIZE)),
    f'header of {SIZE} bytes',
  ),
  'negative header': (
    lambda: many(b'a' * 512, header('x', tarfile.GNUTYPE_LONGNAME, -512)),
    'header of -512 bytes',
  ),
  'sparse file': (
    lambda: many(b'a' * 512, header('x', tarfile.GNUTYPE_SPARSE, SIZE)),
    'sparse file',
  ),
  'numbers of a sparse file': (
    lambda: many(b'1\n' * 256, sparse_map(b'9' * 18 + b'\n' + b'1\n' * 246)),
    'headers have more than 1048576 bytes',
  ),
  'no number in a sparse file': (
    lambda: gzip.compress(sparse_map(bytes(512))),
    'not a complete tar archive',
  ),
  'size that is no number': (
    lambda: gzip.compress(extended(record('GNU.sparse.size', 'x')) + header()),
    'not a complete tar archive',
  ),
  'digits': (
    lambda: gzip.compress(
      b''.join(extended(b'1' * 4096) for _ in range(60)) + header()
    ),
    'lacks data_batch_2.bin',
  ),
}
_SCRIPT = """
import pathlib, resource, sys, time
from experiments.common.errors import InvalidError
from experiments.data import cifar_archives
with open('/proc/self/statm') as file:
  used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27,) * 2)
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
  start = time.process_time()
  try:
    cifar_archives.read_source(path)
    text = 'it was read'
  except InvalidError as error:
    text = str(error)
  print(path.stem, time.process_time() - start, text, sep='|')
"""


@pytest.mark.slow
def test_read_source_attack_raises_within_128_megabytes_and_seconds(tmp_path):
  for name, (make, _) in ATTACKS.items():
    (tmp_path / f'{name}.gz').write_bytes(make())
  done = subprocess.run(
    [sys.executable, '-c', _SCRIPT, tmp_path], capture_output=True, text=True
  )
  assert not done.stderr
  found = [line.split('|') for line in done.stdout.splitlines()]
  assert {name for name, _, _ in found} == set(ATTACKS)
  for name, seconds, text in found:
    assert ATTACKS[name][1] in text
    # 1.5 s without other processes; Python 3.11.7 is slow with digits.
    assert float(seconds) < 20, name


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
def test_read_source_packed_by_macos_returns_rows(tmp_path, mode):
  path = tmp_path / 'cifar.tar'
  files = cifar_files.binary_files('cifar10')
  attributes = {'LIBARCHIVE.xattr.com.apple.provenance': 'AQAA' * 20}
  with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
    for name, content in files.items():
      for prefix, value in (('._', b'Mac OS X'), ('', content)):
        member = tarfile.TarInfo(f'cifar-10-batches-bin/{prefix}{name}')
        member.size, member.pax_headers = len(value), attributes
        tar.addfile(member, io.BytesIO(value))
  notices = []
  name, splits = cifar_archives.read_source(
    path, sizes=cifar_files.SIZES['cifar10'], notify=notices.append
  )
  assert name == 'cifar10'
  rows = np.frombuffer(files['test_batch.bin'], np.uint8).reshape(20, 3073)
  np.testing.assert_array_equal(splits['test'][1], rows[:, 0])
  (message,) = notices
  assert f'has the MD5 {archives.md5(path)}, which no official' in message


def test_read_source_official_md5_tells_nothing(tmp_path, monkeypatch):
  path = tmp_path / 'cifar.tar'
  with tarfile.open(path, 'w') as tar:
    for name, content in cifar_files.binary_files('cifar10').items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  monkeypatch.setitem(cifar_archives.OFFICIAL_MD5, archives.md5(path), 'mine')
  notices = []
  sizes = cifar_files.SIZES['cifar10']
  cifar_archives.read_source(path, sizes=sizes, notify=notices.append)
  assert notices == []
  # A folder has no MD5.
  with tarfile.open(path) as tar:
    tar.extractall(tmp_path / 'folder', filter='data')
  cifar_archives.read_source(
    tmp_path / 'folder', sizes=sizes, notify=notices.append
  )
  assert notices == []


def test_md5_of_text_is_known(tmp_path: pathlib.Path):
  (tmp_path / 'a').write_bytes(b'abc')
  assert archives.md5(tmp_path / 'a') == '900150983cd24fb0d6963f7d28e17f72'


def test_read_source_other_compression_raises(tmp_path):
  path = tmp_path / 'cifar.tar.xz'
  with tarfile.open(path, 'w:xz'):
    pass
  with pytest.raises(
    SourceError, match=r'not a complete tar archive, \.tar or'
  ):
    cifar_archives.read_source(path)


def test_read_state_dict_compressed_archive_raises(tmp_path):
  path = tmp_path / 'net.pth'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('net/data.pkl', bytes(10 * MEGABYTE))
  with pytest.raises(InvalidError, match='expands to 10485760, which no file'):
    torch_file.read_state_dict(path)
