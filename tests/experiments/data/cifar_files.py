"""Small CIFAR sets of noise in the formats of the official archives."""

import io
import pathlib
import struct
import tarfile
from typing import Any

import numpy as np

from experiments.data import cifar_archives
from experiments.data.cifar_archives import Sizes

SIZES = {'cifar10': Sizes(50, 20), 'cifar100': Sizes(200, 100)}
Files = dict[str, bytes]


def make_splits(name: str, seed: int = 0) -> cifar_archives.Splits:
  """Makes a small set of noise: pixels as rows of the archives, and labels."""
  rng = np.random.default_rng(seed)
  classes = len(cifar_archives.CLASSES[name])
  return {
    split: (
      rng.integers(0, 256, (size, 3072), dtype=np.uint8),
      rng.permutation(np.arange(size, dtype=np.int32) % classes),
    )
    for split, size in SIZES[name]._asdict().items()
  }


def parts(name: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
  """Returns (name without suffix, rows, labels) of each official file."""
  splits = make_splits(name)
  if name == 'cifar100':
    return [(split, *splits[split]) for split in ('train', 'test')]
  rows, labels = splits['train']
  found = [
    (f'data_batch_{i + 1}', rows[10 * i :][:10], labels[10 * i :][:10])
    for i in range(5)
  ]
  return [*found, ('test_batch', *splits['test'])]


def binary_files(name: str) -> Files:
  files = {}
  for part, rows, labels in parts(name):
    columns = [labels[:, None].astype(np.uint8), rows]
    if name == 'cifar100':
      columns.insert(0, labels[:, None].astype(np.uint8) // 5)
    files[f'{part}.bin'] = np.concatenate(columns, axis=1).tobytes()
  return files | {'batches.meta.txt': b'airplane\n'}


def python2_pickle(rows: np.ndarray, labels: np.ndarray, key: str) -> bytes:
  """Returns the pickle that Python 2 wrote for the official archives."""

  def text(value: bytes) -> bytes:
    if len(value) < 256:
      return b'U' + bytes([len(value)]) + value  # SHORT_BINSTRING
    return b'T' + struct.pack('<i', len(value)) + value  # BINSTRING

  def number(value: int) -> bytes:
    return b'J' + struct.pack('<i', value)  # BININT

  dtype = (
    b'cnumpy\ndtype\n(' + text(b'u1') + number(0) + number(1) + b'tR'
    b'(' + number(3) + text(b'|') + b'NNN' + number(-1) * 2 + number(0) + b'tb'
  )
  array = (
    b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n('
    + number(0)
    + b't'
    + text(b'b')
    + b'tR('
    + number(1)
    + b'('
    + number(rows.shape[0])
    + number(rows.shape[1])
    + b't'
    + dtype
    + b'I00\n'  # False
    + text(rows.tobytes())
    + b'tb'
  )
  return (
    b'\x80\x02}('
    + text(b'batch_label')
    + text(b'training batch')
    + text(key.encode())
    + b']('
    + b''.join(number(label) for label in labels)
    + b'e'
    + text(b'data')
    + array
    + text(b'filenames')
    + b']('
    + text(b'camion_s_000148.png') * len(labels)
    + b'eu.'
  )


def python2_files(name: str) -> Files:
  key = 'labels' if name == 'cifar10' else 'fine_labels'
  return {
    part: python2_pickle(rows, labels, key)
    for part, rows, labels in parts(name)
  } | {'batches.meta': b'not read'}


def write_tar(
  path: pathlib.Path, files: Files, mode: Any = 'w:gz', prefix: str = 'cifar/'
) -> pathlib.Path:
  with tarfile.open(path, mode) as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(prefix + name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return path
