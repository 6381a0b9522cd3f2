"""Data: read back whole, missing data told at once, batches as an oracle's."""

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
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from experiments.data import batches, cifar_archives, datasets, store
from experiments.data.on_device import ImageSet, hold_out
from experiments.data.prepare import prepare as write_set

SIZES = cifar_archives.Sizes(50, 20)
PLAIN = {'mean': (0.0, 0.0, 0.0), 'std': (1 / 255, 1 / 255, 1 / 255)}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
  """Fails whatever would reach for the network."""

  def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError('the network was used')

  monkeypatch.setattr(socket.socket, 'connect', refuse)
  monkeypatch.setattr(socket, 'getaddrinfo', refuse)


def raw_records(seed: int) -> dict[str, np.ndarray]:
  """A small CIFAR-10 in the official binary layout, file by file."""
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
  """Folder of a small prepared set; data_dir is two levels above."""
  return prepare(tmp_path)


def load(folder: pathlib.Path) -> ImageSet:
  return datasets.load('cifar10', folder.parent.parent)


def assert_is_raw(got: ImageSet, seed: int = 0) -> None:
  """Compares with the bytes of the files, channel by channel."""
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


# What is on disk.


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


def test_decode_split_stock_builder_returns_its_rows() -> None:
  # A set that tensorflow-datasets has prepared has more in a row than ours.
  with tfds.testing.mock_data(num_examples=7):
    source = tfds.data_source('cifar100', split='train')
    assert 'coarse_label' in source[0]
    rows = sorted((source[i] for i in range(7)), key=lambda row: row['id'])
    images, labels = store._decode_split(source, lambda n: None)
  np.testing.assert_array_equal(images, np.stack([r['image'] for r in rows]))
  assert labels.tolist() == [row['label'] for row in rows]


def test_load_second_time_decodes_nothing(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(store, '_decode', None)
  assert_is_raw(load(folder))


def break_nothing(cache: pathlib.Path) -> None:
  cache.unlink()


def cut(cache: pathlib.Path) -> None:
  os.truncate(cache, cache.stat().st_size // 2)


def empty(cache: pathlib.Path) -> None:
  os.truncate(cache, 0)


def flip_bit(cache: pathlib.Path) -> None:
  content = bytearray(cache.read_bytes())
  content[len(content) // 3] ^= 4
  cache.write_bytes(content)


def of_another_set(cache: pathlib.Path) -> None:
  other = prepare(cache.parent.parent.parent.parent / 'other', seed=1)
  os.replace(other / store.CACHE, cache)


def drop_field(cache: pathlib.Path) -> None:
  with zipfile.ZipFile(cache) as old:
    parts = {n: old.read(n) for n in old.namelist() if 'test_lab' not in n}
  with zipfile.ZipFile(cache, 'w') as new:
    for name, content in parts.items():
      new.writestr(name, content)


@pytest.mark.parametrize(
  'spoil', [break_nothing, cut, empty, flip_bit, of_another_set, drop_field]
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


# Data that is missing.


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_load_missing_set_raises_at_once(
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


def test_unknown_set_is_refused() -> None:
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


def lose_a_file(folder: pathlib.Path) -> str:
  next(folder.glob('cifar10-test.array_record*')).unlink()
  return 'lacks files of its test split'


def lose_the_info(folder: pathlib.Path) -> str:
  (folder / 'dataset_info.json').unlink()
  return 'is not in'


def cut_the_info(folder: pathlib.Path) -> str:
  os.truncate(folder / 'dataset_info.json', 40)
  return 'cannot be read'


def be_tfrecord(folder: pathlib.Path) -> str:
  info = folder / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  return 'is stored as tfrecord, which only TensorFlow can read'


def be_incomplete(folder: pathlib.Path) -> str:
  folder.rename(folder.with_name('incomplete.ABC123_3.0.2'))
  return 'is not in'


@pytest.mark.parametrize(
  'spoil',
  [lose_a_file, lose_the_info, cut_the_info, be_tfrecord, be_incomplete],
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
  lose_a_file(folder.with_name('3.1.0'))
  root = folder.parent.parent
  assert store.find_prepared('cifar10', root).name == '3.0.10'


def pretend_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())


def test_load_site_hangs_raises_at_once(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  pretend_tensorflow(monkeypatch)
  release = threading.Event()

  def urlopen(*args: Any, **kwargs: Any) -> None:
    release.wait(30)
    raise OSError

  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  # The limit is 5 s; a shorter one shows the same.
  monkeypatch.setattr(store._answers, '__defaults__', (0.2,))
  monkeypatch.setattr(tfds, 'builder', None)
  start = time.perf_counter()
  with pytest.raises(FileNotFoundError):
    datasets.load('cifar10', tmp_path)
  assert time.perf_counter() - start < 2
  release.set()


@pytest.mark.parametrize('fails', [False, True])
def test_load_site_answers_downloads(
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


# The digits.


def test_digits_are_those_of_scikit_learn() -> None:
  got = datasets.load('digits')
  assert got.train_images.shape == (1437, 32, 32, 3)
  assert got.test_images.shape == (360, 32, 32, 3)
  assert got.train_images.dtype == got.test_images.dtype == np.uint8
  assert got.train_labels.dtype == got.test_labels.dtype == np.int32
  assert not got.flip
  assert got.class_names == tuple('0123456789')
  # Back to 8x8 pixels of 0 to 16, as a bag of (label, pixels): all are there.
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


def test_digits_are_split_evenly_and_normalise_to_zero_and_one() -> None:
  got, again = datasets.load('digits'), datasets.load('digits')
  jax.tree.map(np.testing.assert_array_equal, got[:6], again[:6])
  counts = np.bincount(got.test_labels)
  assert counts.min() >= 35
  assert counts.max() <= 37
  pixels = got.train_images.astype(float) / 255
  scaled = (pixels - np.array(got.mean)) / np.array(got.std)
  np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-12)
  np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-12)


# Batches.


def test_epoch_has_full_batches_only() -> None:
  assert batches.steps_per_epoch(50_000, 128) == 390
  assert batches.steps_per_epoch(128, 128) == 1
  for size, batch in ((127, 128), (10, 0), (10, -1)):
    with pytest.raises(
      ValueError, match=f'batch_size={batch} must be from 1 to {size}'
    ):
      batches.steps_per_epoch(size, batch)


ORDER = jax.jit(batches.epoch_order, static_argnums=2)


@settings(max_examples=50, deadline=None)
@given(
  st.integers(0, 2**31 - 1), st.integers(0, 1000), st.sampled_from([1, 2, 37])
)
def test_order_is_a_permutation_that_seed_and_epoch_give(
  seed: int, epoch: int, size: int
) -> None:
  order = ORDER(seed, epoch, size)
  assert order.dtype == jnp.int32
  assert sorted(order.tolist()) == list(range(size))
  assert batches.epoch_order(seed, epoch, size).tolist() == order.tolist()


def test_orders_differ_between_seeds_and_epochs() -> None:
  orders = {
    tuple(ORDER(seed, epoch, 50).tolist())
    for seed in range(4)
    for epoch in range(4)
  }
  assert len(orders) == 16
  assert tuple(range(50)) not in orders


def test_order_does_not_depend_on_the_default_generator() -> None:
  before = batches.epoch_order(3, 5, 20).tolist()
  with jax.default_prng_impl('rbg'):
    assert batches.epoch_order(3, 5, 20).tolist() == before


def random_split(size: int = 30, seed: int = 0) -> batches.Split:
  rng = np.random.default_rng(seed)
  images = rng.integers(1, 256, (size, 32, 32, 3), dtype=np.uint8)
  return batches.to_device(images, np.arange(size))


STATIC = ('batch_size', 'flip', 'padding', 'dtype')


def batch_of(split: batches.Split, index: Any = 0, **options: Any) -> Any:
  """A batch, compiled once for all tests of split size 30."""
  options = {'seed': 0, 'epoch': 0, 'flip': True, **PLAIN, **options}
  batch_size = options.pop('batch_size', 8)
  return BATCH(split, index, batch_size=batch_size, **options)


def plain_batch(
  split: batches.Split, index: Any, *, seed: Any, epoch: Any, **options: Any
) -> Any:
  order = batches.epoch_order(seed, epoch, len(split.labels))
  batch_size = options.pop('batch_size')
  return batches.train_batch(
    split, order, index, batch_size, seed=seed, epoch=epoch, **options
  )


BATCH = jax.jit(plain_batch, static_argnames=STATIC)


def variants(image: np.ndarray, padding: int) -> dict[bytes, Any]:
  """All crops of an image, and their mirror images, by explicit padding."""
  wide = np.zeros((32 + 2 * padding, 32 + 2 * padding, 3), np.uint8)
  wide[padding : padding + 32, padding : padding + 32] = image
  found: dict[bytes, Any] = {}
  for top in range(2 * padding + 1):
    for left in range(2 * padding + 1):
      crop = wide[top : top + 32, left : left + 32]
      found[crop.tobytes()] = (top, left, False)
      found[crop[:, ::-1].tobytes()] = (top, left, True)
  return found


def as_bytes(batch: Any) -> list[tuple[int, bytes]]:
  pixels = np.rint(np.asarray(batch['image'])).astype(np.uint8)
  labels = np.asarray(batch['label']).tolist()
  return [(y, x.tobytes()) for x, y in zip(pixels, labels, strict=True)]


@pytest.mark.parametrize(
  ('flip', 'padding'), [(True, 4), (False, 4), (True, 1), (False, 0)]
)
def test_every_image_is_a_crop_of_its_own_image(
  flip: bool, padding: int
) -> None:
  split = random_split()
  options: Any = {'flip': flip, 'padding': padding}
  oracle = [variants(np.asarray(x), padding) for x in split.images]
  assert len(oracle[0]) == 2 * (2 * padding + 1) ** 2
  epochs = 200
  tops: Counter[int] = Counter()
  lefts: Counter[int] = Counter()
  mirrored = 0
  for epoch in range(epochs):
    for label, image in as_bytes(batch_of(split, epoch=epoch, **options)):
      top, left, mirror = oracle[label][image]
      tops[top] += 1
      lefts[left] += 1
      mirrored += mirror
  n = 8 * epochs
  shifts = 2 * padding + 1
  for counts in (tops, lefts):
    assert set(counts) == set(range(shifts))
    # Six standard deviations of a binomial count.
    slack = 6 * (n / shifts * (1 - 1 / shifts)) ** 0.5
    assert all(abs(c - n / shifts) <= slack for c in counts.values())
  if flip:
    assert abs(mirrored - n / 2) <= 6 * (n / 4) ** 0.5
  else:
    assert mirrored == 0


def test_images_of_a_batch_are_cropped_and_flipped_on_their_own() -> None:
  split = random_split()
  oracle = [variants(np.asarray(x), 4) for x in split.images]
  batches = [as_bytes(batch_of(split, index)) for index in range(3)]
  for batch in batches:
    assert len({oracle[label][image] for label, image in batch}) >= 6
  drawn = [oracle[label][image] for batch in batches for label, image in batch]
  # Neither the two shifts nor a shift and the flip go together.
  assert len({top - left for top, left, _ in drawn}) > 5
  assert {(top > 4, mirror) for top, _, mirror in drawn} == {
    (False, False),
    (False, True),
    (True, False),
    (True, True),
  }


def test_batches_follow_the_order_and_drop_the_remainder() -> None:
  split = random_split()
  order = ORDER(0, 2, 30)
  seen = []
  for index in range(batches.steps_per_epoch(30, 8)):
    seen += batch_of(split, index, epoch=2)['label'].tolist()
  assert seen == order[:24].tolist()
  options: Any = {'seed': 0, 'epoch': 2, 'flip': True, **PLAIN}
  for index in (3, -1):
    with pytest.raises(ValueError, match=f'index={index} must be from 0 to 2'):
      batches.train_batch(split, order, index, 8, **options)
  with pytest.raises(ValueError, match='padding=-1 must be'):
    batch_of(split, padding=-1)
  with pytest.raises(ValueError, match='batch_size=31 must be'):
    batch_of(split, batch_size=31)


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
  # All images are alike, so that only crops and flips tell batches apart.
  images = np.random.default_rng(0).integers(1, 256, (1, 32, 32, 3), np.uint8)
  split = batches.to_device(images.repeat(30, axis=0), np.zeros(30, np.int32))

  seen = set()
  for seed, epoch, index in np.ndindex(3, 3, 2):
    twice = [
      as_bytes(batch_of(split, index, seed=seed, epoch=epoch)) for _ in range(2)
    ]
    assert twice[0] == twice[1]
    seen.add(tuple(twice[0]))
  assert len(seen) == 18


def test_pixels_are_normalised_and_the_border_is_black() -> None:
  mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
  images = np.full((30, 32, 32, 3), (255, 0, 51), np.uint8)
  split = batches.to_device(images, np.zeros(30, np.int32))
  batch = batch_of(split, mean=mean, std=std)
  assert batch['image'].dtype == jnp.float32
  colours = {
    tuple(np.round(c, 4).tolist())
    for c in np.asarray(batch['image'], np.float64).reshape(-1, 3)
  }
  # (1 - .4914)/.2023, (0 - .4822)/.1994, (.2 - .4465)/.2010; then for 0.
  assert colours == {
    (2.5141, -2.4183, -1.2264),
    (-2.4291, -2.4183, -2.2214),
  }
  low = batch_of(split, mean=mean, std=std, dtype=jnp.bfloat16)
  np.testing.assert_array_equal(
    low['image'], batch['image'].astype(jnp.bfloat16)
  )
  half = batch_of(split, mean=(0.5,) * 3, std=(0.5,) * 3)
  values = np.unique(np.asarray(half['image'], np.float64).round(4))
  assert values.tolist() == [-1, -0.6, 1]


@pytest.mark.parametrize(('size', 'batch'), [(360, 100), (360, 500), (12, 4)])
def test_every_test_image_counts_once(size: int, batch: int) -> None:
  split = random_split(size)

  @jax.jit
  def scan(split: batches.Split) -> Any:
    return jax.lax.map(
      lambda i: batches.eval_batch(split, i, batch, **PLAIN),
      jnp.arange(batches.eval_batches(size, batch)),
    )

  got = scan(split)
  assert got['image'].shape[:2] == (-(-size // batch), batch)
  mask = np.asarray(got['mask'])
  assert set(mask.ravel().tolist()) <= {0.0, 1.0}
  assert got['label'][mask == 1].tolist() == list(range(size))
  np.testing.assert_array_equal(
    np.rint(got['image'][mask == 1]), np.asarray(split.images)
  )
  assert np.isfinite(got['image']).all()


def test_evaluation_refuses_empty_batches() -> None:
  for size, batch in ((0, 5), (5, 0)):
    with pytest.raises(
      ValueError, match=f'batch_size={batch} and the number of images, {size}'
    ):
      batches.eval_batches(size, batch)


def test_device_takes_bytes_with_a_label_each() -> None:
  images = np.zeros((3, 32, 32, 3), np.uint8)
  split = batches.to_device(images, np.arange(3, dtype=np.int64))
  assert split.images.dtype == jnp.uint8
  assert split.labels.dtype == jnp.int32
  with pytest.raises(ValueError, match='images are float32'):
    batches.to_device(images.astype(np.float32), np.arange(3))
  with pytest.raises(ValueError, match=r'labels of shape \(2,\) do not fit 3'):
    batches.to_device(images, np.arange(2))


def test_held_out_images_are_tested_on_and_not_trained_on():
  whole = datasets.load('digits')
  assert hold_out(whole, 0) is whole
  held = hold_out(whole, 300)
  assert (len(held.train_labels), len(held.test_labels)) == (1137, 300)
  assert held.train_images.shape[0] == 1137

  def rows(images, labels):
    return sorted(
      (image.tobytes(), int(label))
      for image, label in zip(images, labels, strict=True)
    )

  both = rows(held.train_images, held.train_labels)
  both += rows(held.test_images, held.test_labels)
  assert sorted(both) == rows(whole.train_images, whole.train_labels)
  again = hold_out(whole, 300)
  np.testing.assert_array_equal(again.test_images, held.test_images)
  assert len(set(held.test_labels.tolist())) == 10
