"""Chunks of steps: the batches they take, their sums, and the test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import batches, build, data, loop
from tests.experiments import tiny

SPE = 3


@pytest.fixture(autouse=True, scope='module')
def _compilation_cache(tmp_path_factory):
  with tiny.compilation_cache(tmp_path_factory.mktemp('compiled')):
    yield


def a_dataset(seed=0, train=14, test=11):
  rng = np.random.default_rng(seed)

  def images(size):
    return rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)

  def labels(size):
    return rng.integers(0, 10, size).astype(np.int32)

  mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
  return data.Dataset(
    *(images(train), labels(train), images(test), labels(test)),
    *(mean, std, tuple('0123456789'), True),
  )


def make(config=None, dataset=None):
  config = config or tiny.config(batch_size=4, estimator='fc_grad')
  net = tiny.Net(10)
  weights = tiny.variables(net)
  return loop.make_loop(
    config,
    dataset or a_dataset(),
    net,
    weights['params'],
    weights['batch_stats'],
  )


def by_hand(config, steps):
  """Plain steps over batches 1, 2, …, and their losses and accuracies."""
  dataset, net = a_dataset(), tiny.Net(10)
  weights = tiny.variables(net)
  train = build.make_train_step(config, build.make_loss(net), SPE)
  split = batches.to_device(dataset.train_images, dataset.train_labels)

  @jax.jit
  def batch(count):
    epoch = count // SPE
    order = batches.epoch_order(config.seed, epoch, len(dataset.train_labels))
    return batches.train_batch(
      *(split, order, count % SPE, config.batch_size),
      seed=config.seed,
      epoch=epoch,
      flip=True,
      mean=dataset.mean,
      std=dataset.std,
    )

  state = train.init(
    jax.random.key(config.seed),
    weights['params'],
    weights['batch_stats'],
    batch(0),
  )
  metrics = []
  for step in range(steps):
    state, seen = train.step(state, batch(step + 1))
    metrics.append(jax.device_get(seen))
  return state, metrics


def assert_close(got, want):
  """Two compilations of one computation differ in the last digits."""
  got, want = tiny.as_arrays(got), tiny.as_arrays(want)
  assert got.keys() == want.keys()
  for path, leaf in got.items():
    np.testing.assert_allclose(leaf, want[path], rtol=1e-4, atol=1e-6)


def test_chunks_step_over_the_batches_in_turn():
  config = tiny.config(batch_size=4, estimator='fc_grad', optimizer='momentum')
  parts = make(config)
  assert parts.steps_per_epoch == SPE
  state, sums = parts.start(), []
  for first, steps in ((0, 2), (2, 1), (3, 3)):
    state, totals = parts.run(state, first, steps)
    assert int(totals.steps) == steps
    assert bool(totals.finite)
    sums.append((float(totals.loss), float(totals.accuracy)))
  want, metrics = by_hand(config, steps=6)
  assert int(state.step) == 6
  assert_close(state, want)
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


def test_the_compiled_loop_of_accelerators_is_the_same(monkeypatch):
  parts = make()
  want, want_totals = parts.run(parts.start(), 0, SPE)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  got, got_totals = parts.run(parts.start(), 0, SPE)
  assert_close(got, want)
  assert_close(got_totals._asdict(), want_totals._asdict())


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_a_chunk_ends_where_a_loss_is_not_finite(monkeypatch, backend):
  def rate(config, initial, steps_per_epoch):
    return lambda step: jnp.where(step < 1, 1e-3, jnp.inf)

  monkeypatch.setattr(build, 'schedule', rate)
  parts = make(tiny.config(batch_size=4, quantizer='none', estimator='ste'))
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  _, totals = parts.run(parts.start(), 0, SPE)
  assert not bool(totals.finite)
  assert int(totals.steps) == 2


def test_a_chunk_across_epochs_is_refused():
  parts = make()
  with pytest.raises(ValueError, match='3 steps from 1 leave'):
    parts.run(None, 1, 3)


def test_two_starts_are_the_same_and_share_nothing():
  parts = make(
    tiny.config(batch_size=4, estimator='fc_grad', seed=build.LARGEST_SEED)
  )
  first, second = parts.start(), parts.start()
  assert tiny.as_bytes(first) == tiny.as_bytes(second)
  parts.run(first, 0, 1)  # donates the first
  assert np.isfinite(np.asarray(second.params['head']['kernel'])).all()


@pytest.mark.parametrize('batch', [4, 11, 500])
def test_the_test_is_the_mean_over_every_image(monkeypatch, batch):
  monkeypatch.setattr(loop, 'EVAL_BATCH', batch)
  dataset, net = a_dataset(), tiny.Net(10)
  weights = tiny.variables(net)
  loss, accuracy = make(dataset=dataset).evaluate(
    weights['params'], weights['batch_stats']
  )
  pixels = dataset.test_images.astype(np.float64) / 255
  images = (pixels - dataset.mean) / dataset.std
  means = images.reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(11, -1)
  norm, stats = weights['params']['norm'], weights['batch_stats']['norm']
  x = (means - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  x = x * norm['scale'] + norm['bias']
  logits = x @ weights['params']['head']['kernel']
  logits += weights['params']['head']['bias']
  right = logits[np.arange(11), dataset.test_labels]
  losses = np.log(np.exp(logits).sum(axis=1)) - right
  hits = logits.argmax(axis=1) == dataset.test_labels
  assert loss == pytest.approx(losses.mean(), rel=1e-5)
  assert accuracy == pytest.approx(100 * hits.mean(), rel=1e-6)
