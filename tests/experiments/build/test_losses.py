"""Compares losses in training and in a test with float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from experiments.build import losses
from tests.experiments import tiny


def oracle(logits, labels):
  """Returns the cross entropy and correctness of each example, in float64."""
  logits = np.asarray(logits, np.float64)
  top = logits.max(axis=1, keepdims=True)
  log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
  losses = log_sum - logits[np.arange(len(labels)), labels]
  return losses, logits.argmax(axis=1) == labels


def make_batch(size=6):
  rng = np.random.default_rng(0)
  return {
    'input': jnp.asarray(rng.normal(size=(size, 32, 32, 3)), jnp.float32),
    'label': jnp.asarray(rng.integers(0, 10, size), jnp.int32),
  }


def test_make_loss_is_mean_over_batch_in_training_mode():
  net, batch = tiny.Net(10), make_batch()
  weights = tiny.variables(net)
  loss, (stats, metrics) = losses.make_loss(net)(
    weights['params'], weights['batch_stats'], batch, jax.random.key(0)
  )
  logits, new = net.apply(
    weights, batch['input'], train=True, mutable=['batch_stats']
  )
  loss_per_example, hits = oracle(logits, batch['label'])
  assert float(loss) == pytest.approx(loss_per_example.mean(), rel=1e-5)
  assert float(metrics['accuracy']) == pytest.approx(hits.mean())
  assert tiny.as_bytes(stats) == tiny.as_bytes(new['batch_stats'])
  assert tiny.as_bytes(stats) != tiny.as_bytes(weights['batch_stats'])


@pytest.mark.parametrize(
  ('share', 'temperature'), [(0.0, 3.0), (0.3, 1.0), (1.0, 4.0)]
)
def test_make_loss_with_teacher_adds_divergence_of_soft_labels(
  share, temperature
):
  net, batch = tiny.Net(10), make_batch()
  weights = tiny.variables(net)
  rng = np.random.default_rng(1)
  teacher = rng.normal(size=(6, 10), scale=3).astype(np.float32)
  batch['teacher_logits'] = jnp.asarray(teacher)
  loss, _ = losses.make_loss(
    net,
    losses.cross_entropy,
    losses.Distillation(share, temperature),
  )(weights['params'], weights['batch_stats'], batch, jax.random.key(0))
  logits, _ = net.apply(
    weights, batch['input'], train=True, mutable=['batch_stats']
  )
  hard, _ = oracle(logits, batch['label'])
  student, target = (
    special.softmax(np.asarray(z, np.float64) / temperature, axis=1)
    for z in (logits, teacher)
  )
  soft = temperature**2 * special.rel_entr(target, student).sum(axis=1)
  expected = ((1 - share) * hard + share * soft).mean()
  assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_make_evaluation_counts_unmasked_examples_only():
  net, batch = tiny.Net(10), make_batch()
  weights = tiny.variables(net)
  logits = net.apply(weights, batch['input'], train=False)
  # The mask excludes one wrong and one correct answer.
  labels = np.asarray(logits.argmax(axis=1)).astype(np.int32)
  labels[:3] = (labels[:3] + 1) % 10
  batch['label'] = jnp.asarray(labels)
  batch['mask'] = jnp.array([0.0, 1, 1, 0, 1, 1])
  sums = losses.make_evaluation(net)(
    weights['params'], weights['batch_stats'], batch
  )
  loss_per_example, _ = oracle(logits, labels)
  assert sums.keys() == {'loss', 'accuracy'}
  assert float(sums['accuracy']) == 2.0
  expected = loss_per_example[[1, 2, 4, 5]].sum()
  assert float(sums['loss']) == pytest.approx(expected, rel=1e-5)


def test_make_evaluation_of_many_classes_counts_the_top_five():
  net = tiny.Net(losses.TOP5_CLASSES)
  weights, batch = tiny.variables(net), make_batch(8)
  logits = np.asarray(net.apply(weights, batch['input'], train=False))
  # The label of example i has the rank i; the mask excludes example 2.
  order = np.argsort(-logits, axis=1)
  batch['label'] = jnp.asarray(order[np.arange(8), np.arange(8)], jnp.int32)
  batch['mask'] = jnp.ones(8).at[2].set(0)
  sums = losses.make_evaluation(net)(
    weights['params'], weights['batch_stats'], batch
  )
  assert float(sums['accuracy']) == 1.0
  assert float(sums['top5_accuracy']) == 4.0
