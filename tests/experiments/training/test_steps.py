"""Tests chunks of steps: their batches, their sums, and the test."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import check, losses, networks, optimizers
from experiments.common import parallel, placement
from experiments.data import batches
from experiments.data.on_device import ImageSet, device_pipeline
from experiments.data.pipeline import Examples
from experiments.training import evaluation
from experiments.training.steps import make_steps
from mq_jax import selection
from tests.experiments import tiny

pytestmark = pytest.mark.usefixtures('compilation_cache')
STEPS_PER_EPOCH = 3


def make_images(seed=0, train=14, test=11):
  """Returns a data set of random images."""
  rng = np.random.default_rng(seed)

  def images(size):
    return rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)

  def labels(size):
    return rng.integers(0, 10, size).astype(np.int32)

  return ImageSet(
    *(make(size) for size in (train, test) for make in (images, labels)),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    class_names=tuple('0123456789'),
    flip=True,
  )


def compile_steps(config, images, net, weights):
  """Returns the compiled steps of a run on these images."""
  keys = config.copy_and_resolve_references()
  keys.dtype = jnp.dtype(networks.DTYPES[config.dtype]).name
  return make_steps(
    config,
    device_pipeline(images, keys, parallel.data_mesh(config.mesh_data)),
    net,
    weights['params'],
    weights['batch_stats'],
  )


def tiny_steps(config=None, images=None):
  """Returns the compiled steps of the tiny network."""
  config = config or tiny.config(batch_size=4, estimator='fc_grad')
  net = tiny.Net(10)
  return compile_steps(
    config, images or make_images(), net, tiny.variables(net)
  )


def run_plain_steps(config, steps):
  """Runs steps on batches 1, 2, …, one at a time.

  Returns:
    The state, and the metrics of each step.
  """
  dataset, net = make_images(), tiny.Net(10)
  weights = tiny.variables(net)
  soft = losses.Distillation(config.distill, config.distill_temperature)
  loss_fn = losses.make_loss(net, distillation=soft if config.distill else None)
  train = tiny.step_of(config, loss_fn, STEPS_PER_EPOCH)
  split = batches.to_device(dataset.train_images, dataset.train_labels)

  @jax.jit
  def batch(count):
    epoch = count // STEPS_PER_EPOCH
    order = batches.epoch_order(config.seed, epoch, len(dataset.train_labels))
    batch = batches.train_batch(
      split,
      order,
      count % STEPS_PER_EPOCH,
      config.batch_size,
      seed=config.seed,
      epoch=epoch,
      flip=True,
    )
    mean, std = dataset.mean, dataset.std
    image = batches.normalised(batch['input'], mean, std, jnp.float32)
    teacher_logits = net.apply(weights, image, train=False)
    return batch | {'input': image, 'teacher_logits': teacher_logits}

  state = train.init(
    jax.random.key(config.seed),
    weights['params'],
    weights['batch_stats'],
    batch(0),
  )
  metrics = []
  for step in range(steps):
    state, step_metrics = train.step(state, batch(step + 1))
    metrics.append(jax.device_get(step_metrics))
  return state, metrics


def assert_close(actual, expected, rtol=1e-4, atol=1e-6):
  """Asserts equality, except for last digits that depend on the compilation."""
  actual, expected = tiny.as_arrays(actual), tiny.as_arrays(expected)
  assert actual.keys() == expected.keys()
  for path, leaf in actual.items():
    np.testing.assert_allclose(leaf, expected[path], rtol=rtol, atol=atol)


@pytest.mark.parametrize('distill', [0.0, 0.7])
def test_run_chunks_take_batches_in_order(monkeypatch, distill):
  tiny.put_in(monkeypatch)
  config = tiny.config(
    batch_size=4, estimator='fc_grad', optimizer='momentum', distill=distill
  )
  steps = tiny_steps(config)
  assert steps.steps_per_epoch == STEPS_PER_EPOCH
  state, sums = steps.start(), []
  for first, count in ((0, 2), (2, 1), (3, 3)):
    state, totals = steps.run(state, first, count)
    assert totals.steps.tolist() == [count]
    assert totals.finite.tolist() == [True]
    sums.append((float(totals.loss[0]), float(totals.accuracy[0])))
  expected, metrics = run_plain_steps(config, steps=6)
  assert state.step.tolist() == [6]
  assert_close(parallel.pick(state, 0), expected)
  loss = [float(m['loss']) for m in metrics]
  accuracy = [float(m['accuracy']) for m in metrics]
  np.testing.assert_allclose(
    sums,
    [
      (sum(loss[:2]), sum(accuracy[:2])),
      (loss[2], accuracy[2]),
      (sum(loss[3:]), sum(accuracy[3:])),
    ],
    rtol=1e-4,
  )


@pytest.mark.parametrize('distill', [0.0, 0.7])
def test_run_device_loop_equals_host_loop(monkeypatch, x64, distill):
  tiny.put_in(monkeypatch)
  use_float64(monkeypatch)
  net = tiny.Net(10, jnp.float64)
  weights = to_float64(tiny.variables(net))
  config = tiny.config(batch_size=4, estimator='fc_grad', distill=distill)
  ends = []
  for backend in ('cpu', 'gpu'):
    monkeypatch.setattr(jax, 'default_backend', lambda name=backend: name)
    steps = compile_steps(config, make_images(), net, weights)
    ends.append(steps.run(steps.start(), 0, STEPS_PER_EPOCH))
  (host, host_totals), (device, device_totals) = ends
  assert_close(device, host, rtol=1e-10, atol=1e-10)
  assert_close(device_totals._asdict(), host_totals._asdict())


@pytest.mark.parametrize(
  ('backend', 'loop'), [('cpu', 'host'), ('gpu', 'host'), ('gpu', 'device')]
)
def test_run_non_finite_loss_is_last_counted_step(monkeypatch, backend, loop):
  def rate(config, steps_per_epoch, initial, cosine):
    return lambda step: jnp.where(step < 1, initial, jnp.inf)

  monkeypatch.setattr(optimizers, 'make_learning_rate', rate)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  if loop == 'host':
    pipeline = device_pipeline
    monkeypatch.setattr(
      sys.modules[__name__],
      'device_pipeline',
      lambda *args: pipeline(*args)._replace(traced=None),
    )
  config = tiny.config(batch_size=4, quantizer='none', estimator='ste')
  steps = tiny_steps(config)
  _, totals = steps.run(steps.start(), 0, STEPS_PER_EPOCH)
  assert totals.finite.tolist() == [False]
  assert totals.steps.tolist() == [2]


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_run_learning_rates_share_one_program(monkeypatch, backend):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  cache = pathlib.Path(jax.config.jax_compilation_cache_dir)
  moves, programs = [], []
  for rate in (0.1, 0.2):
    steps = tiny_steps(tiny.config(batch_size=4, learning_rate=rate))
    start = steps.start()
    before = jax.tree.map(np.array, start.params)
    state, _ = steps.run(start, 0, 1)
    moves.append(jax.tree.map(np.subtract, state.params, before))
    programs.append(sorted(path.name for path in cache.iterdir()))
  assert programs[0] == programs[1] != []
  jax.tree.map(
    lambda small, large: np.testing.assert_allclose(
      large, 2 * small, rtol=1e-2, atol=1e-6
    ),
    *moves,
  )


def test_run_chunk_across_epochs_raises():
  steps = tiny_steps()
  with pytest.raises(ValueError, match='3 steps from step 1 on are not'):
    steps.run(None, 1, 3)


def test_start_twice_gives_equal_states_without_shared_buffers():
  steps = tiny_steps(
    tiny.config(batch_size=4, estimator='fc_grad', seed=check.LARGEST_SEED)
  )
  first, second = steps.start(), steps.start()
  assert tiny.as_bytes(first) == tiny.as_bytes(second)
  steps.run(first, 0, 1)  # donates `first`
  assert np.isfinite(np.asarray(second.params['head']['kernel'])).all()


@pytest.mark.parametrize('batch', [4, 11, 500])
def test_evaluate_is_mean_over_every_image(monkeypatch, batch):
  monkeypatch.setattr(Examples.__new__, '__defaults__', (batch,))
  dataset, net = make_images(), tiny.Net(10)
  weights = tiny.variables(net)
  scores = tiny_steps(images=dataset).evaluate(
    weights['params'], weights['batch_stats']
  )
  expected = tiny.numpy_test(weights['params'], weights['batch_stats'], dataset)
  assert scores['loss'] == pytest.approx(expected[0], rel=1e-5)
  assert scores['accuracy'] == pytest.approx(expected[1], rel=1e-6)


def test_evaluate_few_images_does_not_fill_a_large_batch():
  sizes, net = [], tiny.Net(10)
  weights = tiny.variables(net)

  def batch(index, batch_size):
    sizes.append((index, batch_size))
    return {
      'input': jnp.zeros((batch_size, 32, 32, 3)),
      'label': jnp.zeros(batch_size, jnp.int32),
      'mask': (jnp.arange(batch_size) < 12).astype(jnp.float32),
    }

  evaluate = evaluation.make_evaluate(
    Examples(12, batch), net, losses.LOSSES['cross_entropy']
  )
  evaluate(weights['params'], weights['batch_stats'])
  assert sizes == [(0, 16)]


def use_float64(monkeypatch):
  """Makes images float64, and therefore the complete run."""
  monkeypatch.setitem(networks.DTYPES, 'float32', jnp.float64)


def to_float64(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('estimator', ['fc_grad', 'lstm_fc'])
def test_run_trials_equal_single_runs_of_their_seeds(
  monkeypatch, x64, backend, estimator
):
  """Compares five steps over two epochs, in float64."""
  use_float64(monkeypatch)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)

  def run_five(**overrides):
    config = tiny.config(
      batch_size=4, estimator=estimator, optimizer='adam', **overrides
    )
    net = tiny.Net(10, jnp.float64)
    weights = to_float64(tiny.variables(net))
    steps = compile_steps(config, make_images(), net, weights)
    state, first = steps.run(steps.start(), 0, 3)
    state, second = steps.run(state, 3, 2)
    return state, jnp.stack([first.loss, second.loss], axis=1)

  together, losses = run_five(seed=5, trials=3)
  assert losses.shape == (3, 2)
  for trial in range(3):
    alone, loss = run_five(seed=5 + trial)
    np.testing.assert_allclose(losses[trial], loss[0], rtol=1e-6)  # float32
    actual, expected = parallel.pick(together, trial), parallel.pick(alone, 0)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    types, expected_types = (
      jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (actual, expected)
    )
    assert types == expected_types
  assert len({float(loss) for loss in losses[:, 1]}) == 3


def test_run_one_non_finite_trial_ends_chunk_of_all_trials(monkeypatch):
  steps = tiny_steps(tiny.config(batch_size=4, estimator='fc_grad', trials=2))
  state = steps.start()
  head = state.params['head']
  bias = head['bias'].at[1].set(jnp.nan)
  state = state._replace(
    params={**state.params, 'head': {**head, 'bias': bias}}
  )
  _, totals = steps.run(state, 0, STEPS_PER_EPOCH)
  assert totals.finite.tolist() == [True, False]
  assert totals.steps.tolist() == [1, 1]


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_run_batch_split_over_devices_gives_equal_state(monkeypatch, backend):
  """Tests that statistics and gradients are those of the whole batch."""
  assert jax.device_count() >= 2
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  config = {'batch_size': 4, 'optimizer': 'momentum'}
  single = tiny_steps(tiny.config(**config))
  split = tiny_steps(tiny.config(**config, mesh_data=2))
  expected, expected_totals = single.run(single.start(), 0, STEPS_PER_EPOCH)
  actual, totals = split.run(split.start(), 0, STEPS_PER_EPOCH)
  assert_close(actual, expected)
  assert_close(totals._asdict(), expected_totals._asdict())
  for leaf in jax.tree.leaves(actual):
    assert leaf.sharding.is_fully_replicated
    assert len(leaf.sharding.device_set) == 2


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('estimator', ['lstm_fc', 'ste'])
def test_run_fsdp_divides_large_arrays_and_gives_equal_state(
  monkeypatch, backend, estimator
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(placement, 'MIN_DIVIDED_SIZE', 32)
  config = {
    'batch_size': 4,
    'optimizer': 'momentum',
    'estimator': estimator,
    'hidden': 4,
    'trials': 2,
    'mesh_data': 2,
  }
  replicated = tiny_steps(tiny.config(**config))
  divided = tiny_steps(tiny.config(**config, fsdp=True))
  expected, _ = replicated.run(replicated.start(), 0, STEPS_PER_EPOCH)
  actual, _ = divided.run(divided.start(), 0, STEPS_PER_EPOCH)
  assert_close(actual, expected)
  shapes = selection.named_leaves(divided.state_shape()._asdict())
  assert any(
    shape.sharding.shard_shape(shape.shape) != shape.shape
    for shape in shapes.values()
  )
  for state in (actual, divided.start()):
    for path, leaf in selection.named_leaves(state._asdict()).items():
      assert leaf.sharding.is_equivalent_to(shapes[path].sharding, leaf.ndim)


def test_data_mesh_too_many_devices_raises():
  with pytest.raises(ValueError, match=r'mesh_data=99.*-1 takes all'):
    parallel.data_mesh(99)
  assert parallel.data_mesh(-1).size == jax.device_count()


def test_run_transfer_within_chunk_raises(monkeypatch):
  steps = tiny_steps()
  state = steps.start()
  monkeypatch.setattr(parallel, 'replicated', lambda tree, mesh: tree)
  host_params = jax.tree.map(np.asarray, state.params)
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    steps.run(state._replace(params=host_params), 0, 1)


EIGHT_DEVICES = """
import jax, numpy as np
from mq_jax import models
from tests.experiments import tiny
from tests.experiments.training import test_steps

assert jax.device_count() == 8
net = models.resnet8()
weights = tiny.variables(net)
ends = []
for mesh_data in (1, -1):
  config = tiny.config(
    batch_size=16, estimator='multi_fc', hidden=4, optimizer='momentum',
    mesh_data=mesh_data,
  )
  images = test_steps.make_images(train=50, test=600)
  steps = test_steps.compile_steps(config, images, net, weights)
  state, totals = steps.run(steps.start(), 0, 3)
  assert totals.steps.tolist() == [3]
  for leaf in jax.tree.leaves(state):
    assert len(leaf.sharding.device_set) == (8 if mesh_data == -1 else 1)
  trial = jax.tree.map(lambda leaf: leaf[0], (state.params, state.model_state))
  ends.append((tiny.as_arrays(state), steps.evaluate(*trial)))
(single, test), (split, split_test) = ends
for path, leaf in single.items():
  np.testing.assert_allclose(
    split[path], leaf, rtol=2e-3, atol=2e-4, err_msg=path
  )
for name, score in test.items():
  np.testing.assert_allclose(split_test[name], score, rtol=1e-3, err_msg=name)
print('the same')
"""


@pytest.mark.slow
def test_run_eight_devices_train_resnet_as_one_device():
  process = subprocess.run(
    [sys.executable, '-c', EIGHT_DEVICES],
    env={
      **os.environ,
      'XLA_FLAGS': re.sub(r'count=\d+', 'count=8', os.environ['XLA_FLAGS']),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.stdout.endswith('the same\n'), process.stdout + process.stderr
