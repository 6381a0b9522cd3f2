"""The pipeline of data sets in the memory of the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.common import parallel
from experiments.common.errors import ConfigError
from experiments.data import batches, datasets
from experiments.data.on_device import ImageSet, device_pipeline, hold_out

SIZE = 14


def image_set(train=SIZE, test=5):
  rng = np.random.default_rng(0)

  def images(size):
    return rng.integers(0, 256, (size, 8, 8, 3)).astype(np.uint8)

  def labels(size):
    return rng.integers(0, 10, size).astype(np.int32)

  return ImageSet(
    images(train),
    labels(train),
    images(test),
    labels(test),
    (0.5, 0.4, 0.3),
    (0.2, 0.3, 0.4),
    tuple('0123456789'),
    flip=True,
  )


def pipeline(devices=1, **changes):
  keys = {
    'batch_size': 4,
    'epoch_steps': 0,
    'holdout': 0,
    'augment': True,
    'dtype': 'float32',
  }
  mesh = parallel.data_mesh(devices)
  return device_pipeline(image_set(), ConfigDict(keys | changes), mesh)


def test_device_pipeline_describes_its_data():
  data = pipeline()
  assert data.steps_per_epoch == SIZE // 4
  assert data.classes == tuple('0123456789')
  assert (data.evaluate.size, data.calibrate.size) == (5, SIZE)
  assert pipeline(epoch_steps=2).steps_per_epoch == 2
  assert pipeline(epoch_steps=9).steps_per_epoch == SIZE // 4


@pytest.mark.parametrize('number', [0, 2, 3, 7])
def test_train_batch_is_function_of_seed_and_number(number):
  """Earlier calls and other seeds do not change the batch."""
  images, data = image_set(), pipeline()
  for seed, other in ((5, 0), (6, number), (5, number + 3)):
    data.train(seed, other)
  batch = data.train(5, number)
  epoch, index = divmod(number, 3)
  split = batches.to_device(images.train_images, images.train_labels)
  expected = batches.train_batch(
    split,
    batches.epoch_order(5, epoch, SIZE),
    index,
    4,
    seed=5,
    epoch=epoch,
    flip=True,
    padding=4,
  )
  image = batches.normalised(
    expected['input'], images.mean, images.std, jnp.float32
  )
  np.testing.assert_array_equal(batch['label'], expected['label'])
  np.testing.assert_allclose(batch['input'], image, rtol=1e-6, atol=1e-6)


def test_traced_batch_equals_train_batch():
  data = pipeline()
  context = data.traced.context(jnp.int32(5), jnp.int32(1))
  # The last batch is the first batch of the next epoch.
  for number in (3, 5, 6):
    batch = jax.jit(data.traced.batch)(data.traced.shared, context, number)
    expected = data.train(5, number)
    np.testing.assert_array_equal(batch['input'], expected['input'])
    np.testing.assert_array_equal(batch['label'], expected['label'])


def test_train_batch_without_augment_returns_images_unchanged():
  images, data = image_set(), pipeline(augment=False)
  batch = data.train(5, 1)
  pixels = (images.train_images / 255 - images.mean) / images.std
  chosen = np.asarray(batches.epoch_order(5, 0, SIZE))[4:8]
  np.testing.assert_allclose(batch['input'], pixels[chosen], atol=1e-5)


@pytest.mark.parametrize('devices', [1, 2])
def test_evaluate_batches_cover_every_image_once(devices):
  images, data = image_set(), pipeline(devices)
  parts = [data.evaluate.batch(index, 3) for index in range(2)]
  masks = np.concatenate([part['mask'] for part in parts])
  labels = np.concatenate([part['label'] for part in parts])
  assert masks.tolist() == [1, 1, 1, 1, 1, 0]
  np.testing.assert_array_equal(labels[:5], images.test_labels)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'batch_size': 15}, r'batch_size=15 must be at most 14'),
    ({'batch_size': 8, 'holdout': 7}, r'at most 7.*config\.holdout=7'),
    ({'batch_size': 3, 'devices': 2}, r'batch_size=3 must be a multiple of 2'),
  ],
)
def test_device_pipeline_invalid_batch_size_raises(changes, message):
  with pytest.raises(ConfigError, match=message):
    pipeline(**changes)


def test_hold_out_images_are_only_in_the_test():
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
