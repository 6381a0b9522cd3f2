"""Short runs of a network of one layer, and functions that compare runs.

The network replaces a ResNet in tests of the code around networks.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import mq_jax
from experiments.build.networks import NETWORKS, Network, make_network
from experiments.build.parts import make_parts
from experiments.common import placement
from experiments.configs import digits
from experiments.data.datasets import DATASETS
from experiments.records import checkpoints, model_file, run_log, workdir
from experiments.training.position import with_codes
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
    x = nn.avg_pool(images, (8, 8), (8, 8)).reshape(images.shape[0], -1)
    x = BatchNorm(self.dtype, name='norm')(x, train)
    return nn.Dense(
      self.num_classes, dtype=self.dtype, param_dtype=self.dtype, name='head'
    )(x)


def put_in(monkeypatch):
  """Replaces every network by the tiny one, whose weights can be divided."""
  tiny = Network(lambda keys, num_classes, activation: Net(num_classes), ())
  for name in NETWORKS:
    monkeypatch.setitem(NETWORKS, name, tiny)
  monkeypatch.setattr(placement, 'MIN_DIVIDED_SIZE', 16)


def program(module):
  """Returns Python code that runs a command with the tiny network."""
  return f"""
import runpy
import pytest
from tests.experiments import tiny
tiny.put_in(pytest.MonkeyPatch())
runpy.run_module({module!r}, run_name='__main__', alter_sys=True)
"""


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


def variables(net, seed=7, image_shape=(32, 32, 3), dtype=jnp.float32):
  """Returns random weights of a network; compiles nothing."""
  images = jnp.zeros((1, *image_shape), dtype)
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


def numpy_test(params, batch_stats, data):
  """Returns loss and accuracy in percent of the tiny network on test images."""
  images = (data.test_images.astype(np.float64) / 255 - data.mean) / data.std
  x = images.reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4))
  norm, stats = params['norm'], batch_stats['norm']
  x = x.reshape(len(x), -1) - stats['mean']
  x = x / np.sqrt(stats['var'] + 1e-5) * norm['scale'] + norm['bias']
  logits = x @ params['head']['kernel'] + params['head']['bias']
  label_logits = logits[np.arange(len(x)), data.test_labels]
  losses = np.log(np.exp(logits).sum(axis=1)) - label_logits
  hits = logits.argmax(axis=1) == data.test_labels
  return losses.mean(), 100 * hits.mean()


def step_of(config, loss_fn, steps_per_epoch):
  """Returns the train step of a configuration with another loss."""
  parts = make_parts(config, steps_per_epoch)
  return mq_jax.make_train_step(loss_fn, **parts.step_arguments)


def write_model(path, net, seed=7):
  """Writes a model file of random weights; returns its path."""
  random = variables(net, seed)
  model_file.save_model(path, random['params'], random['batch_stats'], {})
  return str(path)


def last_checkpoint(config, folder):
  """Returns the newest checkpoint of a run; compiles nothing."""
  pipeline = make_pipeline(config)
  net = make_network(config, len(pipeline.classes))
  spec = DATASETS[config.dataset].input_spec(config)
  random = variables(net, image_shape=spec.shape, dtype=spec.dtype)
  steps = make_steps(
    config, pipeline, net, random['params'], random.get('batch_stats', {})
  )
  template = jax.eval_shape(
    lambda state: with_codes(steps, state), steps.state_shape()
  )
  with checkpoints.open_manager(folder / workdir.CHECKPOINTS) as manager:
    return checkpoints.restore_latest(manager, template)


def as_arrays(tree):
  """Returns every leaf of a tree by its path, as a NumPy array."""

  def as_array(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)

  return {path: as_array(leaf) for path, leaf in named_leaves(tree).items()}


def as_bytes(tree):
  """Returns the bytes of every leaf of a tree by its path."""
  return {path: leaf.tobytes() for path, leaf in as_arrays(tree).items()}


def assert_same(got, expected):
  """Asserts that two trees have equal structures, types, shapes and bits."""
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
  for leaf, other in pairs:
    assert (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
  assert as_bytes(got) == as_bytes(expected)


def end_of_run(config, folder):
  """Returns the last checkpoint, the records and the model of a complete run.

  Two runs of one configuration have equal ends, bit for bit.
  """
  last = last_checkpoint(config, folder)
  model = model_file.load_model(workdir.model_path(folder, config))
  return {
    **last._asdict(),
    'state': as_bytes(last.state),
    'records': timeless(run_log.read_log(folder / workdir.LOG)[1]),
    'model': as_bytes(model[:2]),
  }


def timeless(records):
  """Returns records without their durations, which differ between runs."""
  clock = ('seconds', 'test_seconds')
  return [
    {k: v for k, v in record.items() if k not in clock} for record in records
  ]


def write_header(folder, config):
  """Writes the log of a run whose records nobody reads."""
  header = {
    'date': '2026-01-01',
    'config': config.to_dict(),
    'device': {'kind': 'cpu', 'platform': 'cpu', 'count': 1},
    'versions': {'jax': '0', 'mq_jax': '0'},
    'commit': 'abc',
    'dirty': False,
  }
  (folder / workdir.LOG).write_text(json.dumps(header) + '\n')
