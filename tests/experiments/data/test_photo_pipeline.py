"""Tests batches of photographs: functions of seed and number on any device."""

import gc
import threading

import jax
import numpy as np
import pytest

from experiments import training
from experiments.build.check import check
from experiments.common.errors import (
  ConfigError,
  InvalidError,
  MissingError,
  UnreadableError,
)
from experiments.data import crops, photo_pipeline, photo_sets
from experiments.data.on_device import held_out
from experiments.data.photographs import crop
from experiments.training.train import make_pipeline
from tests.experiments import tiny, toys
from tests.experiments.data.photo_files import config, write_folder


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp('photos'))


def bits(batch):
  return {name: np.asarray(array).tobytes() for name, array in batch.items()}


def photos_of(root, split):
  return [
    p
    for name in ('cat', 'dog')
    for p in sorted((root / split / name).iterdir())
  ]


def central(path, resize=20, size=16):
  return crop(
    path.read_bytes(),
    1,
    lambda w, h: crops.central_box(w, h, resize, size),
    size,
  )


def normalised(pixels):
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  return (pixels / 255 - mean) / std


def check_any_order(examples, inputs, labels):
  """Checks that examples have these inputs and labels, in any order."""
  got = examples.batch(0, examples.size)
  distances = np.abs(np.array(got['input'])[:, None] - np.array(inputs))
  nearest = distances.max((2, 3, 4)).argmin(1)
  assert sorted(nearest) == list(range(len(inputs)))
  np.testing.assert_allclose(got['input'], np.array(inputs)[nearest], atol=1e-5)
  np.testing.assert_array_equal(got['label'], np.array(labels)[nearest])


def test_train_batches_are_equal_for_any_threads_and_start(root):
  pipelines = [
    make_pipeline(config(root, workers=workers)) for workers in (1, 2, 5)
  ]
  assert pipelines[0].steps_per_epoch == 14 // 4
  expected = [bits(pipelines[0].train(3, number)) for number in range(8)]
  assert len({batch['input'] for batch in expected}) == 8
  for number in (5, 6, 0, 7, 7, 2):
    assert bits(pipelines[1].train(3, number)) == expected[number]
  # Trials take turns.
  for number in range(8):
    assert bits(pipelines[2].train(3, number)) == expected[number]
    other = bits(pipelines[2].train(4, number))
    assert other['input'] != expected[number]['input']


def test_train_epoch_has_each_photograph_once(root):
  pipeline = make_pipeline(config(root, batch_size=7, augment=False))
  files = photos_of(root, 'train')
  expected = normalised(np.stack([central(path) for path in files]))
  orders = []
  for epoch in range(2):
    batches = [pipeline.train(0, 2 * epoch + i) for i in range(2)]
    images = np.concatenate([batch['input'] for batch in batches])
    labels = np.concatenate([batch['label'] for batch in batches])
    order = [
      int(np.abs(expected - image).max(axis=(1, 2, 3)).argmin())
      for image in images
    ]
    assert sorted(order) == list(range(14))
    np.testing.assert_allclose(images, expected[order], atol=1e-5)
    np.testing.assert_array_equal(labels, np.array(order) // 7)
    orders.append(order)
  assert orders[0] != orders[1]


def test_train_augmented_crop_is_the_drawn_box(root, monkeypatch):
  monkeypatch.setattr(crops, 'random_box', lambda rng, w, h: (0, 0, 16, 16))
  pipeline = make_pipeline(config(root, batch_size=14, pixels='half'))
  files = photos_of(root, 'train')
  boxes = [
    crop(path.read_bytes(), 1, lambda w, h: (0, 0, 16, 16), 16) / 128.0 - 1
    for path in files
  ]
  both = np.stack([boxes, np.flip(boxes, axis=2)]).astype(np.float32)
  mirrored = []
  for number in range(4):
    batch = pipeline.train(0, number)
    for image, label in zip(batch['input'], batch['label'], strict=True):
      distance = np.abs(both - np.asarray(image)).max(axis=(2, 3, 4))
      assert distance.min() < 1e-5
      is_mirrored, place = np.unravel_index(distance.argmin(), distance.shape)
      assert label == place // 7
      mirrored.append(is_mirrored)
  assert 0.25 < np.mean(mirrored) < 0.75


def test_evaluate_returns_central_crops_in_order_with_mask(root):
  pipeline = make_pipeline(config(root))
  expected = [normalised(central(path)) for path in photos_of(root, 'val')]
  assert pipeline.evaluate.size == 6
  for _ in range(2):
    batches = [pipeline.evaluate.batch(index, 4) for index in range(2)]
    mask = np.concatenate([batch['mask'] for batch in batches])
    np.testing.assert_array_equal(mask, [1] * 6 + [0] * 2)
    images = np.concatenate([batch['input'] for batch in batches])
    np.testing.assert_allclose(images[:6], expected, atol=1e-5)
    labels = np.concatenate([batch['label'] for batch in batches])
    np.testing.assert_array_equal(labels[:6], [0, 0, 0, 1, 1, 1])
    assert np.isfinite(images).all()


@pytest.mark.parametrize('largest', [0, 2**30])
def test_evaluate_decodes_again_only_what_does_not_fit(
  root, monkeypatch, largest
):
  decoded = []
  monkeypatch.setattr(photo_pipeline, 'LARGEST_KEPT', largest)
  test_pixels = photo_pipeline.test_pixels

  def count(photos, keys, place):
    decoded.append(place)
    return test_pixels(photos, keys, place)

  monkeypatch.setattr(photo_pipeline, 'test_pixels', count)
  pipeline = make_pipeline(config(root))
  first, again = (
    [bits(pipeline.evaluate.batch(i, 4)) for i in range(2)] for _ in range(2)
  )
  assert first == again
  assert len(decoded) == (6 if largest else 12)


def test_calibrate_is_training_set_without_augmentation(root):
  pipeline = make_pipeline(config(root))
  assert pipeline.calibrate.size == 14
  expected = [normalised(central(p)) for p in photos_of(root, 'train')]
  check_any_order(pipeline.calibrate, expected, [0] * 7 + [1] * 7)


def test_calibrate_begins_with_photographs_of_all_classes(tmp_path):
  classes = ('ant', 'bee', 'cow', 'dog')
  pipeline = make_pipeline(config(write_folder(tmp_path, classes, train=40)))
  labels = np.asarray(pipeline.calibrate.batch(0, 64)['label'])
  assert np.bincount(labels, minlength=4).min() >= 8
  again = make_pipeline(config(tmp_path)).calibrate.batch(0, 64)
  np.testing.assert_array_equal(again['label'], labels)


def test_holdout_moves_training_photographs(root):
  pipeline = make_pipeline(config(root, holdout=5))
  assert (pipeline.evaluate.size, pipeline.calibrate.size) == (5, 9)
  assert pipeline.steps_per_epoch == 9 // 4
  test, train = held_out(14, 5)
  files = photos_of(root, 'train')
  left_out, kept = (
    [normalised(central(files[place])) for place in places]
    for places in (test, train)
  )
  got = pipeline.evaluate.batch(0, len(test))
  np.testing.assert_allclose(got['input'], left_out, atol=1e-5)
  np.testing.assert_array_equal(got['label'], test // 7)
  check_any_order(pipeline.calibrate, kept, train // 7)


def test_dtype_and_epoch_steps_are_read(root):
  pipeline = make_pipeline(config(root, dtype='bfloat16', epoch_steps=2))
  assert pipeline.steps_per_epoch == 2
  assert pipeline.train(0, 0)['input'].dtype == jax.numpy.bfloat16


def test_batches_on_two_devices_are_split_and_equal(root):
  one, two = (make_pipeline(config(root, mesh_data=n)) for n in (1, 2))
  for number in range(3):
    batch = two.train(1, number)
    for array in batch.values():
      assert len(array.sharding.device_set) == 2
      assert {len(s.data) for s in array.addressable_shards} == {2}
    assert bits(batch) == bits(one.train(1, number))
  # The devices cannot split three images.
  for size in (3, 4):
    assert bits(two.evaluate.batch(0, size)) == bits(
      one.evaluate.batch(0, size)
    )


def test_train_damaged_or_missing_photograph_is_named(tmp_path):
  pipeline = make_pipeline(config(write_folder(tmp_path), batch_size=14))
  path = tmp_path / 'train' / 'dog' / 'dog_2.jpg'
  content = path.read_bytes()
  expected = bits(pipeline.train(0, 0))
  path.write_bytes(content[:-300])
  with pytest.raises(UnreadableError, match=r'dog_2\.jpg was readable when'):
    pipeline.train(0, 10)
  path.unlink()
  with pytest.raises(MissingError, match=r'dog_2\.jpg was removed during'):
    pipeline.train(0, 20)
  path.write_bytes(content)
  assert bits(pipeline.train(0, 0)) == expected


def test_threads_end_with_their_pipeline(root):
  def threads():
    return {t for t in threading.enumerate() if t.name.startswith('decode')}

  before = threads()
  pipeline = make_pipeline(config(root, workers=3))
  pipeline.train(0, 0)
  pipeline.evaluate.batch(0, 2)
  started = threads() - before
  assert started
  del pipeline
  gc.collect()
  for thread in started:
    thread.join(10)
  assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'resize': 15}, 'config.resize=15 must be at least config.image_size=16'),
    ({'image_size': 7}, 'config.image_size=7 must be at least 8'),
    ({'pixels': 'full'}, "config.pixels='full' must be one of"),
    ({'workers': -1}, 'config.workers=-1 must be at least 0'),
  ],
)
def test_check_wrong_keys_raises(root, changes, message):
  with pytest.raises(ConfigError, match=message):
    check(config(root, network='resnet8', **changes))


def test_check_key_of_photographs_with_other_set_raises(root):
  with pytest.raises(
    ConfigError, match=r"image_size=16 has no effect.*'cifar10'"
  ):
    check(config(root, 'cifar10', network='resnet8', resize=256))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'batch_size': 15}, 'config.batch_size=15 must be at most 14'),
    ({'holdout': 14}, 'config.holdout=14 must be below 14'),
    ({'batch_size': 3, 'mesh_data': 2}, 'must be a multiple of 2'),
    ({'data_dir': ''}, "config.data_dir='' must name the folder"),
  ],
)
def test_make_pipeline_wrong_sizes_raises(root, changes, message):
  with pytest.raises(ConfigError, match=message):
    make_pipeline(config(root, **changes))


def test_make_pipeline_without_val_names_holdout(tmp_path):
  write_folder(tmp_path, val=0)
  with pytest.raises(ConfigError, match=r'no photographs to test on.*holdout'):
    make_pipeline(config(tmp_path))
  assert make_pipeline(config(tmp_path, holdout=4)).evaluate.size == 4


def test_make_pipeline_inspects_small_folder_only(tmp_path, monkeypatch):
  write_folder(tmp_path)
  monkeypatch.setattr(photo_sets.photo_index, 'LARGEST_UNPREPARED', 19)
  with pytest.raises(MissingError, match='prepare_data --dataset folder'):
    make_pipeline(config(tmp_path))
  monkeypatch.undo()
  (tmp_path / 'val' / 'cat' / 'cat_0.jpg').write_bytes(b'')
  with pytest.raises(InvalidError, match=r'cat_0\.jpg: the file is empty'):
    make_pipeline(config(tmp_path))


@pytest.mark.usefixtures('compilation_cache')
def test_training_on_photographs_resumes_bit_for_bit(
  tmp_path, monkeypatch, root
):
  toys.declare(monkeypatch)
  changes = {'network': 'toy', 'epochs': 1, 'chunk': 1, 'pretrain_epochs': 0}
  changes |= {'estimator': 'ste', 'quantizer': 'none'}
  whole = config(root, workers=1, **changes)
  training.train_and_evaluate(whole, tmp_path / 'whole')
  asked = iter([False, True])
  parts = config(root, workers=2, **changes)
  with pytest.raises(training.Stopped):
    training.train_and_evaluate(
      parts, tmp_path / 'parts', stop=lambda: next(asked)
    )
  training.train_and_evaluate(parts, tmp_path / 'parts')
  ends = [
    tiny.end_of_run(c, tmp_path / name)
    for c, name in ((whole, 'whole'), (parts, 'parts'))
  ]
  assert ends[0] == ends[1]
