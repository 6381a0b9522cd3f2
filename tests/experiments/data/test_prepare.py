"""Tests the preparation of CIFAR sets: sources, errors and interruptions."""

import os
import pathlib
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments import prepare_data
from experiments.data import (
  cifar_archives,
  cifar_pickle,
  datasets,
  prepare,
  store,
)
from experiments.data.archives import SourceError
from tests.experiments.data.cifar_files import (
  SIZES,
  Files,
  binary_files,
  make_splits,
  parts,
  python2_files,
  python2_pickle,
  write_tar,
)


def as_images(rows: np.ndarray) -> np.ndarray:
  return np.stack([rows[:, i * 1024 : (i + 1) * 1024] for i in range(3)], -1)


def assert_read(got: tuple[str, Any], name: str) -> None:
  assert got[0] == name
  for split, (rows, labels) in make_splits(name).items():
    images, found = got[1][split]
    assert images.dtype == np.uint8
    assert images.shape == (len(rows), 32, 32, 3)
    np.testing.assert_array_equal(images.reshape(-1, 1024, 3), as_images(rows))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


def python3_files(name: str, protocol: int) -> Files:
  key = 'labels' if name == 'cifar10' else 'fine_labels'
  return {
    part: pickle.dumps({key: labels.tolist(), 'data': rows}, protocol)
    for part, rows, labels in parts(name)
  }


def fortran_files(name: str) -> Files:
  return {
    part: pickle.dumps(
      {b'labels': labels.tolist(), b'data': np.asfortranarray(rows)}, 2
    )
    for part, rows, labels in parts(name)
  }


def write_folder(folder: pathlib.Path, files: Files) -> pathlib.Path:
  folder.mkdir(parents=True)
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return folder


def read(source: pathlib.Path, name: str = 'cifar10') -> Any:
  return cifar_archives.read_source(source, sizes=SIZES[name])


# Sources.


def test_python2_pickle_is_valid_pickle() -> None:
  for _, rows, labels in parts('cifar10'):
    got = pickle.loads(python2_pickle(rows, labels, 'k'), encoding='bytes')
    np.testing.assert_array_equal(got[b'data'], rows)
    assert got[b'k'] == labels.tolist()


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
@pytest.mark.parametrize('kind', [binary_files, python2_files])
def test_read_source_official_archive_returns_its_rows(
  tmp_path: pathlib.Path, name: str, kind: Callable[[str], Files]
) -> None:
  files = kind(name)
  assert_read(read(write_folder(tmp_path / 'folder', files), name), name)
  assert_read(read(write_tar(tmp_path / 'a.tar.gz', files), name), name)
  assert_read(read(write_tar(tmp_path / 'a.tar', files, 'w'), name), name)


@pytest.mark.parametrize('protocol', [2, 4])
def test_read_source_files_saved_by_python3_returns_rows(
  tmp_path: pathlib.Path, protocol: int
) -> None:
  files = python3_files('cifar10', protocol)
  assert_read(read(write_folder(tmp_path / 'a', files)), 'cifar10')


def test_read_source_fortran_order_returns_rows(tmp_path: pathlib.Path) -> None:
  source = write_folder(tmp_path / 'a', fortran_files('cifar10'))
  assert_read(read(source), 'cifar10')


def test_classes_are_sorted_and_complete() -> None:
  for name, classes in cifar_archives.CLASSES.items():
    assert len(set(classes)) == len(classes) == int(name[5:])
    # Both sets number their classes in alphabetical order.
    assert list(classes) == sorted(classes)


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_prepare_archive_twice_writes_rows_once(
  tmp_path: pathlib.Path, name: str
) -> None:
  source = write_tar(tmp_path / 'a.tar.gz', binary_files(name))
  calls: dict[str, list[int]] = {}

  def report(text: str, total: int) -> Callable[[int], None]:
    calls[text] = [0, total]

    def advance(n: int) -> None:
      calls[text][0] += n

    return advance

  root = tmp_path / 'sets'
  folder = prepare.prepare(source, root, sizes=SIZES[name], report=report)
  assert folder == root / name / '3.0.2'
  # Only the set is left, and its pixels are already decoded.
  assert [p.name for p in root.iterdir()] == [name]
  assert (folder / store.CACHE).exists()
  got = datasets.load(name, root)
  splits = {
    'train': (got.train_images, got.train_labels),
    'test': (got.test_images, got.test_labels),
  }
  assert_read((name, splits), name)
  assert got.class_names == cifar_archives.CLASSES[name]
  total = sum(SIZES[name])
  assert list(calls.values()) == [[total, total]] * 3
  # A second call finds the set and changes nothing.
  before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
  again = prepare.prepare(source, root, sizes=SIZES[name])
  assert again == folder
  assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.slow
def test_prepare_real_archive_writes_its_rows(
  data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  source = data_dir / 'cifar-10-batches-bin'
  command = [sys.executable, '-m', 'experiments.prepare_data']
  options = ['--source', str(source), '--data_dir', str(tmp_path)]
  done = subprocess.run(
    command + options, capture_output=True, text=True, check=True, timeout=600
  )
  assert f'cifar10 is ready in {tmp_path}/cifar10/3.0.2' in done.stdout
  assert f'--config.data_dir={tmp_path}' in done.stdout
  start = time.perf_counter()
  got = datasets.load('cifar10', tmp_path)
  assert time.perf_counter() - start < 5  # 0.6 s without other processes
  names = [f'data_batch_{i}.bin' for i in range(1, 6)]
  tables = [np.fromfile(source / name, np.uint8) for name in names]
  for images, labels, table in (
    (got.train_images, got.train_labels, np.concatenate(tables)),
    (
      got.test_images,
      got.test_labels,
      np.fromfile(source / 'test_batch.bin', np.uint8),
    ),
  ):
    table = table.reshape(-1, 3073)
    np.testing.assert_array_equal(labels, table[:, 0])
    np.testing.assert_array_equal(
      images.reshape(-1, 1024, 3), as_images(table[:, 1:])
    )


# Invalid sources.


def refused(source: pathlib.Path, match: str, tmp_path: pathlib.Path) -> None:
  root = tmp_path / 'sets'
  with pytest.raises(SourceError, match=match):
    prepare.prepare(source, root, sizes=SIZES['cifar10'])
  assert not root.exists()


def changed(name: str, content: bytes | None) -> Callable[[Files], Files]:
  def change(files: Files) -> Files:
    kept = {key: files[key] for key in files if key != name}
    return kept if content is None else {**kept, name: content}

  return change


def shorten_file(files: Files) -> Files:
  return {**files, 'data_batch_2.bin': files['data_batch_2.bin'][:-1]}


def lengthen_file(files: Files) -> Files:
  return {**files, 'test_batch.bin': files['test_batch.bin'] + bytes(3073)}


def change_label(label: int) -> Callable[[Files], Files]:
  def change(files: Files) -> Files:
    table = bytearray(files['data_batch_1.bin'])
    other = table[3073] + 1 if table[3073] < 9 else 0
    table[3073] = label if label > 9 else other
    return {**files, 'data_batch_1.bin': bytes(table)}

  return change


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (changed('data_batch_3.bin', None), r'lacks data_batch_3\.bin\.'),
    (changed('test_batch.bin', b''), r'test_batch\.bin has 0 bytes.*61460'),
    (
      shorten_file,
      r'data_batch_2\.bin has 30729 bytes, but 10 images take 30730',
    ),
    (
      lengthen_file,
      r'test_batch\.bin has 64533 bytes, but 20 images take 61460',
    ),
    (
      change_label(10),
      r'train labels are 0 to 10, but those of cifar10 are 0 to 9',
    ),
    (change_label(0), r'train split has \d images of class \d \([a-z]+\)'),
    (lambda files: {}, 'contains no CIFAR set'),
    (lambda files: {'README': b'CIFAR'}, 'contains no CIFAR set'),
  ],
)
@pytest.mark.parametrize('packed', [False, True])
def test_prepare_incomplete_binary_raises(
  tmp_path: pathlib.Path,
  change: Callable[[Files], Files],
  match: str,
  packed: bool,
) -> None:
  files = change(binary_files('cifar10'))
  if packed:
    source = write_tar(tmp_path / 'a.tar.gz', files)
  else:
    source = write_folder(tmp_path / 'a', files)
  refused(source, match, tmp_path)


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
@pytest.mark.parametrize('kept', [0, 0.00001, 0.3, 0.9, 0.9999])
def test_prepare_truncated_archive_raises(
  tmp_path: pathlib.Path, mode: str, kept: float
) -> None:
  source = write_tar(tmp_path / 'a.tar', binary_files('cifar10'), mode)
  # An uncompressed tar ends in kilobytes of zeros, which may be missing.
  size = source.stat().st_size - (10_240 if mode == 'w' else 0)
  os.truncate(source, int(kept * size))
  refused(source, 'is not a complete tar archive|lacks', tmp_path)


def test_prepare_flipped_bit_raises(tmp_path: pathlib.Path) -> None:
  source = write_tar(tmp_path / 'a.tar.gz', binary_files('cifar10'))
  content = bytearray(source.read_bytes())
  content[len(content) // 2] ^= 16
  source.write_bytes(content)
  # Noise is stored uncompressed, so the bit belongs to a pixel, and only the
  # checksum at the end reveals the change.
  refused(source, 'is not a complete tar archive', tmp_path)


def test_prepare_file_of_other_kind_raises(tmp_path: pathlib.Path) -> None:
  page = tmp_path / 'cifar-10-binary.tar.gz'
  page.write_text('<html>404 not found</html>')
  refused(page, 'is not a complete tar archive', tmp_path)
  refused(tmp_path / 'none', 'none does not exist', tmp_path)


def test_read_source_links_and_paths_are_not_followed(
  tmp_path: pathlib.Path,
) -> None:
  inner = tmp_path / 'inner'
  inner.mkdir()
  files = binary_files('cifar10')
  source = write_tar(inner / 'a.tar', files, 'w', prefix='../../escaped/')
  before = sorted(tmp_path.rglob('*'))
  assert_read(read(source), 'cifar10')
  assert sorted(tmp_path.rglob('*')) == before
  secret = tmp_path / 'secret'
  secret.write_bytes(files.pop('test_batch.bin'))
  write_tar(source, files, 'w')
  for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
    with tarfile.open(source, 'a') as tar:
      member = tarfile.TarInfo('cifar/test_batch.bin')
      member.type, member.linkname = kind, str(secret)
      tar.addfile(member)
    refused(source, r'lacks test_batch\.bin', tmp_path)


class Attack:
  """Object whose pickle creates a file when it is read."""

  def __init__(self, path: pathlib.Path, function: Any = os.system) -> None:
    self.path = path
    self.function = function

  def __reduce__(self) -> tuple[Any, ...]:
    command = f'touch {self.path}'
    if self.function is eval:
      command = f'__import__("os").system({command!r})'
    return self.function, (command,)


@pytest.mark.parametrize('function', [os.system, eval])
@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_prepare_malicious_pickle_raises_and_runs_nothing(
  tmp_path: pathlib.Path, function: Any, protocol: int
) -> None:
  trace = tmp_path / 'trace'
  _, rows, labels = parts('cifar10')[0]
  batch = {'labels': labels.tolist(), 'data': rows}
  attack = pickle.dumps([batch, Attack(trace, function)], protocol)
  files = python2_files('cifar10') | {'data_batch_1': attack}
  source = write_tar(tmp_path / 'a.tar.gz', files)
  refused(source, r'data_batch_1 is not a CIFAR file.*it asks for', tmp_path)
  assert not trace.exists()
  # The attack works: plain pickle creates the file.
  pickle.loads(attack)
  assert trace.exists()


def test_read_batch_unneeded_name_raises() -> None:
  for module, name in (
    ('builtins', 'eval'),
    ('numpy', 'load'),
    ('numpy', 'ndarray.tofile'),
    ('numpy.core.multiarray', 'fromfile'),
    ('_codecs', 'lookup'),
  ):
    content = f'\x80\x02c{module}\n{name}\n.'.encode('latin1')
    with pytest.raises(ValueError, match=f'asks for {module}.{name}'):
      cifar_pickle.read_batch(content, 'labels', 10, 3072)
  # _codecs.encode would run any codec.
  zipped = b'c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlitR.'
  with pytest.raises(ValueError, match='encoding zli'):
    cifar_pickle.read_batch(zipped, 'labels', 10, 3072)


TEXT = b'X' + struct.pack('<I', 30_000) + b'a' * 30_000
LATIN1 = b'X' + struct.pack('<I', 6) + b'latin1'
CRAFTED = {
  'memo_text': b'\x80\x02Np1152921504606846976\n.',
  'memo_binary': b'\x80\x02Nr\xff\xff\xff\xff.',
  'long4': b'\x80\x02\x8b\xff\xff\xff\x7f.',
  'binstring': b'\x80\x02T\xff\xff\xff\x7f.',
  'binunicode': b'\x80\x02X\xff\xff\xff\xff.',
  'binbytes': b'\x80\x03B\xff\xff\xff\xff.',
  'binbytes8': b'\x80\x04\x8e' + struct.pack('<Q', 2**60) + b'.',
  'bytearray8': b'\x80\x05\x96' + struct.pack('<Q', 2**60) + b'.',
  'frame': b'\x80\x04\x95' + struct.pack('<Q', 2**60) + b'.',
  # Python's unpickler drops the start of a length across the end of a frame. It
  # would then find an instruction in the text.
  'frame_end': b'\x80\x04N\x95'
  + struct.pack('<Q', 3)
  + b'T\x08\x00\x00\x00\x00\x00r\xff\xff\xff\x7f..',
  'nested_lists': b'\x80\x02' + b'](' * 40_000 + b'e' * 40_000 + b'.',
  'nested_tuples': b'\x80\x02N' + b'\x85' * 90_000 + b'.',
  'nested_key': b'\x80\x02}(N' + b'\x85' * 90_000 + b'Nu.',
  # Pairs of references to one pair as a key: hash() visits 2^100 numbers.
  'doubled_key': b'\x80\x02}(K\x01'
  + b''.join(b'q%bh%b\x86' % ((bytes([i]),) * 2) for i in range(100))
  + b'Nu.',
  'long_number': b'\x80\x02I' + b'9' * 90_000 + b'\n.',
  'duplicates': b'\x80\x02]' + b'2' * 90_000 + b'.',
  # Nested pairs that each refer twice to the next pair: 2^30 labels.
  'doubled': python2_pickle(
    parts('cifar10')[0][1], np.empty(0), 'labels'
  ).replace(
    b'labels](e',
    b'labelsK\x01'
    + b''.join(b'q%bh%b\x86' % ((bytes([i]),) * 2) for i in range(30)),
  ),
  'encoded_again': b'\x80\x02(c_codecs\nencode\nq\x00'
  + TEXT
  + b'q\x01'
  + LATIN1
  + b'q\x02'
  + b'h\x00h\x01h\x02\x86R' * 12_000
  + b't.',
}


@pytest.mark.parametrize('content', CRAFTED.values(), ids=CRAFTED)
def test_prepare_pickle_of_huge_objects_raises_in_bounded_memory(
  tmp_path: pathlib.Path, content: bytes
) -> None:
  padded = content.ljust(31_000, b'\0')
  files = python2_files('cifar10') | {'data_batch_1': padded}
  source = write_folder(tmp_path / 'a', files)
  tracemalloc.start()
  try:
    start = time.perf_counter()
    refused(source, 'data_batch_1 is not a CIFAR file', tmp_path)
    assert time.perf_counter() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize(
  'content',
  [
    b'\x80\x02N' + b'\x85' * 400_000 + b'.',
    b'\x80\x02}(N' + b'\x85' * 400_000 + b'Nu.',
    b'\x80\x02' + b'](' * 200_000 + b'e' * 100_000 + b'.',
    b'\x80\x02' + b']' * 100_000_000,
    b'\x80\x02S' + b'a' * 10_000_000 + b'\n.',
  ],
  ids=['nested_tuples', 'nested_key', 'nested_lists', 'long', 'unquoted'],
)
def test_read_batch_slow_pickle_of_official_size_raises_in_bounded_time(
  content: bytes,
) -> None:
  start = time.perf_counter()
  with pytest.raises(ValueError) as error:
    cifar_pickle.read_batch(content, 'fine_labels', 50_000, 3072)
  assert time.perf_counter() - start < 10  # 1 s without other processes
  assert len(str(error.value)) < 200


def replace_once(content: bytes, old: bytes, new: bytes) -> bytes:
  assert content.count(old) == 1
  return content.replace(old, new)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    (b'(U\x02u1', b'(N' + b'\x85' * 500 + b'0U\x02u1'),  # POP
    (b'(U\x02u1J', b'(N' + b'\x85' * 500 + b'J'),
    (b'(J\x0a\x00\x00\x00J\x00\x0c\x00\x00t', b'(N' + b'\x85' * 500 + b't'),
    (b'tb', b't0'),
    (b'numpy\ndtype', b'numpy\nndarray'),
    (b'U\x02u1', b'U\x02i1'),
    (b'U\x04data', b'U\x04date'),
    (b'J\x00\x0c\x00\x00', b'J\x01\x0c\x00\x00'),
  ],
)
def test_read_batch_changed_array_raises(old: bytes, new: bytes) -> None:
  _, rows, labels = parts('cifar10')[0]
  content = python2_pickle(0 * rows, 0 * labels, 'labels')
  if old == b'tb':
    changed = content[:-4].replace(old, new, 1) + content[-4:]
  else:
    changed = replace_once(content, old, new)
  assert cifar_pickle.read_batch(content, 'labels', 10, 3072)
  with pytest.raises(ValueError):
    cifar_pickle.read_batch(changed, 'labels', 10, 3072)


@settings(max_examples=300)
@given(st.integers(0, 800), st.integers(1, 255))
def test_read_batch_changed_byte_returns_arrays_or_raises(
  position: int, change: int
) -> None:
  _, rows, labels = parts('cifar10')[0]
  content = bytearray(python2_pickle(rows[:2], labels[:2], 'labels'))
  # The first 400 and the last 400 bytes are outside the pixels.
  content[position - 400] ^= change
  try:
    pixels, found = cifar_pickle.read_batch(bytes(content), 'labels', 2, 3072)
  except ValueError:
    return
  assert (pixels.shape, pixels.dtype) == ((2, 3072), np.uint8)
  assert (found.shape, found.dtype) == ((2,), np.int32)


def make_invalid_pickle(**values: Any) -> bytes:
  _, rows, labels = parts('cifar10')[0]
  batch = {'labels': labels.tolist(), 'data': rows, **values}
  return pickle.dumps({k: v for k, v in batch.items() if v is not None}, 2)


@pytest.mark.parametrize(
  'content',
  [
    make_invalid_pickle()[:-100],
    make_invalid_pickle(labels=None),
    make_invalid_pickle(labels=[0] * 9),
    make_invalid_pickle(labels=[0.5] * 10),
    make_invalid_pickle(labels=['cat'] * 10),
    make_invalid_pickle(data=np.zeros((10, 3073), np.uint8)),
    make_invalid_pickle(data=np.zeros((10, 768), np.float32)),
    make_invalid_pickle(data=[[0] * 3072] * 10),
    pickle.dumps([0] * 20_000, 2),
    b'\x80\x02' + b'N' * 31_000 + b'.',
    b'\xff' * 31_000,
  ],
)
def test_prepare_broken_python_file_raises(
  tmp_path: pathlib.Path, content: bytes
) -> None:
  files = python2_files('cifar10') | {'data_batch_1': content}
  source = write_folder(tmp_path / 'a', files)
  refused(source, 'data_batch_1 (is not a CIFAR file|has .* bytes)', tmp_path)


def test_prepare_huge_python_file_raises(
  tmp_path: pathlib.Path,
) -> None:
  source = write_folder(tmp_path / 'a', python2_files('cifar10'))
  os.truncate(source / 'test_batch', 10**12)  # sparse; takes no space
  refused(source, 'test_batch has 1000000000000 bytes, but 20 images', tmp_path)


def test_prepare_existing_folder_raises_and_is_kept(
  tmp_path: pathlib.Path,
) -> None:
  source = write_folder(tmp_path / 'a', binary_files('cifar10'))
  taken = tmp_path / 'sets' / 'cifar10' / '3.0.2'
  taken.mkdir(parents=True)
  (taken / 'precious').write_bytes(b'')
  with pytest.raises(FileExistsError, match=f'{taken} exists, but is not'):
    prepare.prepare(source, tmp_path / 'sets', sizes=SIZES['cifar10'])
  assert [p.name for p in (tmp_path / 'sets').rglob('*')] == [
    'cifar10',
    '3.0.2',
    'precious',
  ]


def test_prepare_lossy_write_raises_and_removes_files(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  source = write_folder(tmp_path / 'a', binary_files('cifar10'))
  save = Image.Image.save

  def lossy(self: Image.Image, file: Any, form: str) -> None:
    save(self.point(lambda x: x ^ 1), file, form)

  monkeypatch.setattr(Image.Image, 'save', lossy)
  with pytest.raises(OSError, match='did not read back as it was written'):
    prepare.prepare(source, tmp_path / 'sets', sizes=SIZES['cifar10'])
  assert list((tmp_path / 'sets').iterdir()) == []


# Interruptions.

SLOW = """
import os, signal, sys, time
from experiments import prepare_data
from experiments.data import cifar_archives, prepare

# A parent in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def report(text, total):
  def advance(n):
    if text == stage:
      os.write(1, b'reached\\n')  # sys.stdout is redirected here.
      # In slices: a signal just before a sleep is only handled at its end.
      for _ in range(6000):
        time.sleep(0.01)
  return advance

source, root, stage = sys.argv[1:]
original = prepare.prepare
prepare.prepare = lambda source, root, **unused: original(
  source, root, sizes=cifar_archives.Sizes(50, 20), report=report)
sys.exit(prepare_data.main(['--source', source, '--data_dir', root]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ('number', 'stage', 'status'),
  [
    (signal.SIGKILL, 'writing', -signal.SIGKILL),
    (signal.SIGKILL, 'checking', -signal.SIGKILL),
    (signal.SIGTERM, 'writing', 143),
    (signal.SIGINT, 'checking', 130),
  ],
)
def test_command_interrupted_leaves_no_set(
  tmp_path: pathlib.Path, number: int, stage: str, status: int
) -> None:
  source = write_folder(tmp_path / 'a', binary_files('cifar10'))
  root = tmp_path / 'sets'
  with subprocess.Popen(
    [sys.executable, '-c', SLOW, str(source), str(root), stage],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout is not None
    while 'reached' not in (line := process.stdout.readline()):
      assert line, process.communicate()[1]
    assert any(root.iterdir())
    process.send_signal(number)
    process.communicate(timeout=60)
  assert process.returncode == status
  with pytest.raises(FileNotFoundError, match='cifar10 is not in'):
    datasets.load('cifar10', root)
  leftovers = list(root.iterdir())
  assert bool(leftovers) == (number == signal.SIGKILL)
  for folder in leftovers:
    os.utime(folder, (0, 0))  # as after a kill long ago
  prepare.prepare(source, root, sizes=SIZES['cifar10'])
  assert [p.name for p in root.iterdir()] == ['cifar10']
  assert len(datasets.load('cifar10', root).train_labels) == 50


def test_prepare_keeps_files_of_concurrent_preparation(
  tmp_path: pathlib.Path,
) -> None:
  source = write_folder(tmp_path / 'a', binary_files('cifar10'))
  other = tmp_path / 'sets' / f'{prepare.STAGING}other'
  other.mkdir(parents=True)
  prepare.prepare(source, tmp_path / 'sets', sizes=SIZES['cifar10'])
  assert other.exists()


# The command.


def test_command_wrong_sizes_exits_with_message(
  tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
  source = write_folder(tmp_path / 'a', binary_files('cifar10'))
  before = signal.getsignal(signal.SIGTERM)
  message = 'data_batch_1.bin has 30730 bytes, but 10000 images take 30730000'
  try:
    with pytest.raises(SystemExit, match=message):
      prepare_data.main(
        ['--source', str(source), '--data_dir', str(tmp_path / 'sets')]
      )
  finally:
    signal.signal(signal.SIGTERM, before)
  assert not (tmp_path / 'sets').exists()


def test_command_without_source_exits_with_usage(
  capfd: pytest.CaptureFixture[str],
) -> None:
  with pytest.raises(SystemExit) as error:
    prepare_data.main([])
  assert error.value.code == 2
  assert '--source' in capfd.readouterr().err
