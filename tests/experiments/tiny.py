"""Makes and compares runs of a network of one layer, which take little time.

The network replaces a ResNet in tests that do not depend on the network.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental.compilation_cache import (
  compilation_cache as compilation_cache_module,
)

from experiments.build.networks import NETWORKS, Network, make_network
from experiments.build.parts import make_parts, make_train_step
from experiments.configs import digits
from experiments.records import checkpoints, model_file, workdir
from experiments.training.loop import Saved
from experiments.training.steps import make_steps
from experiments.training.train import make_pipeline
from mq_jax.models import BatchNorm
from mq_jax.selection import named_leaves

BATCH = 256
STEPS = 5  # full batches of 256 in the 1437 training images


class Net(nn.Module):
  """One dense layer on 4x4 pixels, with batch statistics."""

  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train):
    x = nn.avg_pool(images, (8, 8), (8, 8)).reshape(len(images), -1)
    x = BatchNorm(self.dtype, name='norm')(x, train)
    return nn.Dense(
      self.num_classes, dtype=self.dtype, param_dtype=self.dtype, name='head'
    )(x)


def put_in(monkeypatch):
  """Replaces every declared network by the tiny network."""
  tiny = Network(lambda keys, num_classes, activation: Net(num_classes), ())
  for name in NETWORKS:
    monkeypatch.setitem(NETWORKS, name, tiny)


@contextlib.contextmanager
def compilation_cache(folder):
  """Caches compiled programs, which many runs of one module share."""
  values = {
    'jax_compilation_cache_dir': str(folder),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in values}
  for name, value in values.items():
    jax.config.update(name, value)
  # The first compilation of a process fixes whether there is a cache.
  compilation_cache_module.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache_module.reset_cache()


def config(**overrides):
  """Returns the configuration of a run of two epochs on the digits."""
  result = digits.get_config()
  result.update(
    network='resnet8',
    estimator='lstm_fc',
    hidden=3,
    optimizer='adam',
    batch_size=BATCH,
    epochs=2,
    pretrain_epochs=1,
    chunk=2,
    checkpoint_every=3,
  )
  result.update(overrides)
  return result


def variables(net, seed=7, image_shape=(32, 32, 3)):
  """Returns random weights of a network; compiles nothing."""
  images = jnp.zeros((1, *image_shape))
  shapes = jax.eval_shape(
    lambda: net.init(jax.random.key(0), images, train=False)
  )
  rng = np.random.default_rng(seed)

  def leaf(like):
    if len(like.shape) == 1:
      return rng.uniform(0.5, 1.5, like.shape).astype(np.float32)
    deviation = np.sqrt(2 / np.prod(like.shape[:-1]))
    return rng.normal(0, deviation, like.shape).astype(np.float32)

  return jax.tree.map(leaf, shapes)


def step_of(config, loss_fn, steps_per_epoch):
  """Makes the train step of a configuration, with another loss."""
  parts = make_parts(config, steps_per_epoch)
  return make_train_step(config, parts, loss_fn)


def write_model(path, net, seed=7):
  """Writes a model file with random weights; returns its path."""
  random = variables(net, seed)
  model_file.save_model(path, random['params'], random['batch_stats'], {})
  return str(path)


def last_checkpoint(config, folder):
  """Returns the contents of the newest checkpoint; compiles nothing."""
  pipeline = make_pipeline(config)
  net = make_network(config, len(pipeline.classes))
  random = variables(net, image_shape=pipeline.image_shape)
  steps = make_steps(
    config,
    pipeline,
    net,
    random['params'],
    random['batch_stats'],
  )

  def with_codes(state):
    return Saved(state, jax.vmap(steps.train.codes)(state))

  manager = checkpoints.open_manager(workdir.checkpoints_path(folder))
  try:
    return checkpoints.restore_latest(
      manager, jax.eval_shape(with_codes, steps.state_shape())
    )
  finally:
    checkpoints.close(manager)


def as_arrays(tree):
  """Returns every leaf of a tree by path, as NumPy arrays."""

  def one(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)

  return {path: one(leaf) for path, leaf in named_leaves(tree).items()}


def as_bytes(tree):
  """Returns the bytes of every leaf of a tree, by path."""
  return {path: leaf.tobytes() for path, leaf in as_arrays(tree).items()}


def timeless(records):
  """Returns the records without measured times, which differ between runs."""
  clock = ('seconds', 'test_seconds')
  return [
    {k: v for k, v in record.items() if k not in clock} for record in records
  ]
