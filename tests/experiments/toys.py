"""Defines additions of a user: method, estimator, network and data set.

Each is code and one declaration; nothing else in the project mentions it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

import mq_jax
from experiments.build import estimators, methods, networks
from experiments.build.key import Key
from experiments.data import datasets
from experiments.data.pipeline import Examples, Pipeline
from mq_jax.models import BatchNorm

SHAPE = (6, 10, 2)
CLASSES = ('dark', 'bright', 'striped')
SIZE, TEST_SIZE = 37, 11

# Method: the sign of a weight, times a constant.


def constant_scale(scale):
  def codes(w_tilde, variables):
    del variables
    levels = jnp.array([-scale, scale], w_tilde.dtype)
    return (w_tilde >= 0).astype(jnp.uint8), levels

  return mq_jax.Quantizer(codes)


METHOD = methods.Method(
  lambda keys, context: methods.MethodParts(
    constant_scale(keys.method.scale), threshold=0.0
  ),
  options={'scale': Key(0.5, 'Size of both levels.', above=0)},
)

# Estimator: the straight-through gradient times a trained factor, which starts
# at `hidden`.


def factor(start):
  def apply(phi, signals, state):
    return {path: phi * g for path, g in signals.g_ste.items()}, state

  return mq_jax.ste()._replace(
    init=lambda key, leaves: jnp.float32(start),
    apply=apply,
    factor=lambda phi: {'s': phi},
  )


ESTIMATOR = estimators.Estimator(
  lambda keys, context: factor(keys.hidden),
  ('hidden',),
  colour='#56B4E9',
  marker='*',
)

# Network: batch norm and one dense layer, for images of any shape.


class Dense(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, images, train):
    x = images.reshape(len(images), -1)
    x = BatchNorm(name='norm')(x, train)
    return nn.Dense(self.num_classes, name='head')(x)


NETWORK = networks.Network(
  lambda keys, num_classes, activation: Dense(num_classes), ()
)

# Data set: a stream from the host. A batch is read from a file on disk.


def write(folder):
  """Writes the images of the data set."""
  rng = np.random.default_rng(0)
  labels = np.arange(SIZE + TEST_SIZE) % len(CLASSES)
  images = rng.integers(0, 60, (len(labels), *SHAPE))
  images[labels == 1] += 150
  images[labels == 2, ::2] += 150
  np.save(folder / 'images.npy', images.astype(np.uint8))
  np.save(folder / 'labels.npy', labels.astype(np.int32))


def stream(keys, mesh):
  """Makes the pipeline of the data set in `keys.data_dir`."""
  images = np.load(f'{keys.data_dir}/images.npy', mmap_mode='r')
  labels = np.load(f'{keys.data_dir}/labels.npy', mmap_mode='r')
  steps_per_epoch = SIZE // keys.batch_size

  def on_devices(batch):
    is_even = len(batch['label']) % mesh.size == 0
    spec = PartitionSpec('data') if is_even else PartitionSpec()
    return jax.device_put(batch, NamedSharding(mesh, spec))

  def batch_of(places):
    return {
      'input': (images[places] / 128 - 1).astype(np.float32),
      'label': labels[places],
    }

  def train(seed, number):
    epoch, index = divmod(number, steps_per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(SIZE)
    first = index * keys.batch_size
    return on_devices(batch_of(order[first : first + keys.batch_size]))

  def examples(first, size):
    def batch(index, batch_size):
      places = index * batch_size + np.arange(batch_size)
      mask = (places < size).astype(np.float32)
      chosen = first + np.minimum(places, size - 1)
      return on_devices(batch_of(chosen) | {'mask': mask})

    return Examples(size, batch)

  return Pipeline(
    steps_per_epoch=steps_per_epoch,
    classes=CLASSES,
    train=train,
    evaluate=examples(SIZE, TEST_SIZE),
    calibrate=examples(0, SIZE),
  )


DATASET = datasets.Dataset(
  lambda keys: jax.ShapeDtypeStruct(SHAPE, np.float32),
  stream,
  ('data_dir', 'batch_size'),
)


def declare(monkeypatch):
  """Declares all four additions under the name 'toy', for one test."""
  monkeypatch.setitem(methods.METHODS, 'toy', METHOD)
  monkeypatch.setitem(estimators.ESTIMATORS, 'toy', ESTIMATOR)
  monkeypatch.setitem(networks.NETWORKS, 'toy', NETWORK)
  monkeypatch.setitem(datasets.DATASETS, 'toy', DATASET)
