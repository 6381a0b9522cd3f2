"""Tests the comparison of objectives of φ."""

import json
import sys

import jax
import numpy as np
import optax
import pytest

import mq_jax
from benchmarks import horizon
from tests import problem
from tests.experiments import tiny

RATE = 0.3


def states(train, count):
  """Returns the states before and after `count` updates of constant φ."""
  result = [problem.start(train)]
  for batch in [*problem.batches(count + 1)][1:]:
    result.append(train.step_fn(result[-1], batch)[0])
  return result


def gradient_of_phi(estimator, count):
  train = problem.make(
    estimator=estimator,
    learning_rate=RATE,
    meta_optimizer=optax.set_to_zero(),
  )
  seen = states(train, count)
  out = horizon.horizon_gradient(
    estimator, RATE, seen[0].phi, seen[:-1], seen[-1]
  )
  return out, train, seen


def test_horizon_of_one_update_is_gradient_of_the_paper(x64):
  estimator = mq_jax.multi_fc(hidden=5)
  out, train, (before, after) = gradient_of_phi(estimator, 1)
  del after
  batch = [*problem.batches(2)][1]
  expected = jax.grad(train.phi_loss)(before.phi, before, batch)
  for ours, theirs in zip(
    jax.tree.leaves(out), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_horizon_of_a_factor_is_product_of_newest_and_earlier_gradients(x64):
  """Compares with the product of the gradients of DoReFa, eq. (4)."""
  estimator = mq_jax.fc_grad(layers=1, init='identity')
  out, _, seen = gradient_of_phi(estimator, 4)

  def gradients(state):
    return {
      path: state.grads[layer]['kernel']
      * (1 - np.tanh(w) ** 2)
      / np.max(np.abs(np.tanh(w)))
      for layer in ('first', 'last')
      for path, w in ((layer, np.asarray(state.params[layer]['kernel'])),)
    }

  newest = gradients(seen[-1])
  expected = -RATE * sum(
    np.vdot(newest[layer], g)
    for state in seen[:-1]
    for layer, g in gradients(state).items()
  )
  (leaf,) = jax.tree.leaves(out)
  assert float(leaf.squeeze()) == pytest.approx(float(expected), rel=1e-12)


def test_horizon_writes_a_row_per_objective(monkeypatch, tmp_path):
  tiny.put_in(monkeypatch)
  path = tiny.write_model(tmp_path / 'net.safetensors', tiny.Net(10))
  out = tmp_path / 'rows.json'
  command = ['horizon', '--quick', f'--json={out}', '--pretrained', str(path)]
  command += ['--dataset', 'digits', '--network', 'resnet8', '--gamma', '0.1']
  monkeypatch.setattr(sys, 'argv', command)
  horizon.main()
  rows = json.loads(out.read_text())['rows']
  learned = [
    (shape, objective)
    for shape in ('network', 'layer')
    for objective in (
      '1 update',
      horizon.ON_HELD_OUT,
      '2 updates',
      horizon.FROZEN,
    )
  ]
  assert [(row['s per'], row['objective of φ']) for row in rows] == [
    ('network', horizon.FIXED),
    *learned,
  ]
  assert rows[0]['s'] == '1.00'
  factors = {row['objective of φ']: row['s'] for row in rows[1:5]}
  assert '1.00' not in factors.values()
  assert len(set(factors.values())) > 2
  for row in rows:
    assert row['training loss'] > 0
    assert 0 <= float(row['held-out accuracy %']) <= 100
