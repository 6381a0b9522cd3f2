"""Tests that data sets load completely, and that missing sets raise at once."""

import importlib.util
import logging
import os
import pathlib
import re
import socket
import threading
import time
import types
import urllib.request
import zipfile
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from experiments.data import cifar_archives, datasets, store
from experiments.data.on_device import ImageSet
from experiments.data.prepare import prepare as write_set

SIZES = cifar_archives.Sizes(50, 20)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
  """Makes every use of the network an error."""

  def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError('the network was used')

  monkeypatch.setattr(socket.socket, 'connect', refuse)
  monkeypatch.setattr(socket, 'getaddrinfo', refuse)


def raw_records(seed: int) -> dict[str, np.ndarray]:
  """Returns the files of a small CIFAR-10 in the official binary format."""
  rng = np.random.default_rng(seed)
  names = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
  files = {}
  for name, rows in zip(names, [10] * 5 + [20], strict=True):
    table = rng.integers(0, 256, (rows, 3073), dtype=np.uint8)
    table[:, 0] = rng.permutation(np.arange(rows) % 10)
    files[name] = table
  return files


def prepare(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  source = folder / 'source'
  source.mkdir(parents=True)
  for name, table in raw_records(seed).items():
    table.tofile(source / name)
  return write_set(source, folder / 'sets', sizes=SIZES)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Prepares a small set; returns its folder, two levels below data_dir."""
  return prepare(tmp_path)


def load(folder: pathlib.Path) -> ImageSet:
  return datasets.load('cifar10', folder.parent.parent)


def assert_is_raw(got: ImageSet, seed: int = 0) -> None:
  """Compares pixels with the bytes of the files, channel by channel."""
  files = raw_records(seed)
  test = files.pop('test_batch.bin')
  for images, labels, table in (
    (got.train_images, got.train_labels, np.concatenate([*files.values()])),
    (got.test_images, got.test_labels, test),
  ):
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, table[:, 0])
    for channel in range(3):
      plane = table[:, 1 + 1024 * channel : 1 + 1024 * (channel + 1)]
      np.testing.assert_array_equal(
        images[..., channel].reshape(len(table), 1024), plane
      )


# Data on disk.


def test_load_prepared_returns_source_bytes(folder: pathlib.Path) -> None:
  got = load(folder)
  assert_is_raw(got)
  assert got.class_names[3] == 'cat'
  assert len(got.class_names) == 10
  assert got.mean == (0.4914, 0.4822, 0.4465)
  assert got.std == (0.2023, 0.1994, 0.2010)
  assert got.flip


def test_prepare_result_is_read_by_tensorflow_datasets(
  folder: pathlib.Path,
) -> None:
  source = tfds.data_source(
    'cifar10',
    split='test',
    data_dir=folder.parent.parent,
    download=False,
  )
  table = raw_records(0)['test_batch.bin']
  assert len(source) == 20
  for row in source:
    record = table[int(row['id'].decode().removeprefix('test_'))]
    assert row['label'] == record[0]
    np.testing.assert_array_equal(
      row['image'], record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
    )


def test_decode_split_standard_builder_returns_its_rows() -> None:
  # Rows that tensorflow-datasets prepared have more fields than ours.
  with tfds.testing.mock_data(num_examples=7):
    source = tfds.data_source('cifar100', split='train')
    assert 'coarse_label' in source[0]
    rows = sorted((source[i] for i in range(7)), key=lambda row: row['id'])
    images, labels = store._decode_split(source, lambda n: None)
  np.testing.assert_array_equal(images, np.stack([r['image'] for r in rows]))
  assert labels.tolist() == [row['label'] for row in rows]


def test_load_second_call_decodes_nothing(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(store, '_decode', None)
  assert_is_raw(load(folder))


def delete_cache(cache: pathlib.Path) -> None:
  cache.unlink()


def cut(cache: pathlib.Path) -> None:
  os.truncate(cache, cache.stat().st_size // 2)


def empty(cache: pathlib.Path) -> None:
  os.truncate(cache, 0)


def flip_bit(cache: pathlib.Path) -> None:
  content = bytearray(cache.read_bytes())
  content[len(content) // 3] ^= 4
  cache.write_bytes(content)


def replace_by_another_set(cache: pathlib.Path) -> None:
  other = prepare(cache.parent.parent.parent.parent / 'other', seed=1)
  os.replace(other / store.CACHE, cache)


def drop_field(cache: pathlib.Path) -> None:
  with zipfile.ZipFile(cache) as old:
    parts = {n: old.read(n) for n in old.namelist() if 'test_lab' not in n}
  with zipfile.ZipFile(cache, 'w') as new:
    for name, content in parts.items():
      new.writestr(name, content)


@pytest.mark.parametrize(
  'spoil',
  [delete_cache, cut, empty, flip_bit, replace_by_another_set, drop_field],
)
def test_load_damaged_pixels_are_rewritten(
  folder: pathlib.Path, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  spoil(folder / store.CACHE)
  assert_is_raw(load(folder))
  assert [p.name for p in folder.iterdir() if 'part' in p.name] == []
  monkeypatch.setattr(store, '_decode', None)
  assert_is_raw(load(folder))


def test_load_read_only_folder_warns_and_returns(
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  caplog: pytest.LogCaptureFixture,
) -> None:
  (folder / store.CACHE).unlink()

  def refuse(*args: Any) -> None:
    raise PermissionError('read-only')

  monkeypatch.setattr(os, 'replace', refuse)
  with caplog.at_level(logging.WARNING):
    assert_is_raw(load(folder))
  assert 'read-only' in caplog.text
  assert not [p for p in folder.iterdir() if store.CACHE in p.name]


def test_load_damaged_records_raises_with_folder(folder: pathlib.Path) -> None:
  (folder / store.CACHE).unlink()
  record = next(folder.glob('cifar10-train.array_record*'))
  os.truncate(record, record.stat().st_size // 2)
  with pytest.raises(ValueError, match=f'{folder} is damaged'):
    load(folder)
  assert not (folder / store.CACHE).exists()


# Missing data.


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_load_missing_set_raises_within_two_seconds(
  name: str, tmp_path: pathlib.Path
) -> None:
  folder = tmp_path / 'my sets'
  start = time.perf_counter()
  with pytest.raises(FileNotFoundError) as error:
    datasets.load(name, folder)
  assert time.perf_counter() - start < 2
  archive = f'cifar-{name[5:]}-binary.tar.gz'
  assert f'https://www.cs.toronto.edu/~kriz/{archive}' in str(error.value)
  assert (
    f"python -m experiments.prepare_data --source {archive} --data_dir '"
    f"{folder}'" in str(error.value)
  )
  assert not folder.exists()


def test_load_unknown_set_raises() -> None:
  with pytest.raises(ValueError, match=r"'mnist'.*cifar10, cifar100, digits"):
    datasets.load('mnist')


def test_load_without_folder_uses_defaults(
  folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('TFDS_DATA_DIR', str(folder.parent.parent))
  assert_is_raw(datasets.load('cifar10'))
  with pytest.raises(FileNotFoundError, match=str(tmp_path / 'none')):
    datasets.load('cifar10', tmp_path / 'none')
  monkeypatch.delenv('TFDS_DATA_DIR')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  with pytest.raises(
    FileNotFoundError, match=str(tmp_path / 'home' / 'tensorflow_datasets')
  ):
    datasets.load('cifar10')


def delete_file(folder: pathlib.Path) -> str:
  next(folder.glob('cifar10-test.array_record*')).unlink()
  return 'lacks files of its test split'


def delete_info(folder: pathlib.Path) -> str:
  (folder / 'dataset_info.json').unlink()
  return 'is not in'


def truncate_info(folder: pathlib.Path) -> str:
  os.truncate(folder / 'dataset_info.json', 40)
  return 'cannot be read'


def declare_tfrecord(folder: pathlib.Path) -> str:
  info = folder / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  return 'is stored as tfrecord, which only TensorFlow can read'


def rename_to_incomplete(folder: pathlib.Path) -> str:
  folder.rename(folder.with_name('incomplete.ABC123_3.0.2'))
  return 'is not in'


@pytest.mark.parametrize(
  'spoil',
  [
    delete_file,
    delete_info,
    truncate_info,
    declare_tfrecord,
    rename_to_incomplete,
  ],
)
def test_load_incomplete_set_raises(folder: pathlib.Path, spoil: Any) -> None:
  message = spoil(folder)
  with pytest.raises(FileNotFoundError, match=re.escape(message)) as error:
    load(folder)
  assert 'python -m experiments.prepare_data' in str(error.value)


def test_find_prepared_returns_newest_complete_version(
  folder: pathlib.Path,
) -> None:
  for version in ('3.0.1', '3.0.10', '3.1.0'):
    other = folder.with_name(version)
    other.mkdir()
    for path in folder.iterdir():
      (other / path.name).write_bytes(path.read_bytes())
  delete_file(folder.with_name('3.1.0'))
  root = folder.parent.parent
  assert store.find_prepared('cifar10', root).name == '3.0.10'


def pretend_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())


def test_load_unresponsive_site_raises_at_once(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  pretend_tensorflow(monkeypatch)
  release = threading.Event()

  def urlopen(*args: Any, **kwargs: Any) -> None:
    release.wait(30)
    raise OSError

  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  # The limit is 5 s. The test uses a shorter one.
  monkeypatch.setattr(store._answers, '__defaults__', (0.2,))
  monkeypatch.setattr(tfds, 'builder', None)
  start = time.perf_counter()
  with pytest.raises(FileNotFoundError):
    datasets.load('cifar10', tmp_path)
  assert time.perf_counter() - start < 2
  release.set()


@pytest.mark.parametrize('fails', [False, True])
def test_load_responsive_site_downloads(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
  class Answer:
    status = 200

    def __enter__(self) -> 'Answer':
      return self

    def __exit__(self, *args: Any) -> None:
      pass

  asked = []

  def urlopen(request: Any, timeout: float) -> Answer:
    asked.append((request.get_method(), request.full_url))
    return Answer()

  def download() -> None:
    if fails:
      raise RuntimeError('the line broke')
    prepare(tmp_path)

  def builder(name: str, **options: Any) -> Any:
    assert (name, options) == (
      'cifar10',
      {'data_dir': tmp_path / 'sets', 'file_format': 'array_record'},
    )
    return types.SimpleNamespace(download_and_prepare=download)

  pretend_tensorflow(monkeypatch)
  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  monkeypatch.setattr(tfds, 'builder', builder)
  if fails:
    with pytest.raises(FileNotFoundError, match='prepare_data'):
      datasets.load('cifar10', tmp_path / 'sets')
  else:
    assert_is_raw(datasets.load('cifar10', tmp_path / 'sets'))
  assert asked == [
    ('HEAD', 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz')
  ]


# Digits.


def test_load_digits_equal_digits_of_scikit_learn() -> None:
  got = datasets.load('digits')
  assert got.train_images.shape == (1437, 32, 32, 3)
  assert got.test_images.shape == (360, 32, 32, 3)
  assert got.train_images.dtype == got.test_images.dtype == np.uint8
  assert got.train_labels.dtype == got.test_labels.dtype == np.int32
  assert not got.flip
  assert got.class_names == tuple('0123456789')
  # Converts back to 8x8 pixels of 0 to 16. The multisets of (label, pixels) are
  # equal.
  images = np.concatenate([got.train_images, got.test_images])
  labels = np.concatenate([got.train_labels, got.test_labels])
  blocks = images.reshape(-1, 8, 4, 8, 4, 3)
  assert (blocks == blocks[:, :, :1, :, :1, :1]).all()
  small = np.rint(blocks[:, :, 0, :, 0, 0].astype(float) * 16 / 255)
  official = load_digits()

  def count(xs: np.ndarray, ys: np.ndarray) -> Counter[tuple[int, bytes]]:
    pairs = zip(xs, ys, strict=True)
    return Counter((int(y), x.astype(int).tobytes()) for x, y in pairs)

  assert count(small, labels) == count(official.images, official.target)
  assert images.min() == 0
  assert images.max() == 255


def test_load_digits_split_is_balanced_and_normalised() -> None:
  got, again = datasets.load('digits'), datasets.load('digits')
  jax.tree.map(np.testing.assert_array_equal, got[:6], again[:6])
  counts = np.bincount(got.test_labels)
  assert counts.min() >= 35
  assert counts.max() <= 37
  pixels = got.train_images.astype(float) / 255
  scaled = (pixels - np.array(got.mean)) / np.array(got.std)
  np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-12)
  np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-12)
