"""Tests `feature_fc` against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax.estimators import coordinates
from tests import problem


def leaves(seed):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = {'a': (3, 5), 'b': (4,), 'c': (2, 2, 3)}
  return {
    path: 10.0**-index * jax.random.normal(key, shape)
    for index, (key, (path, shape)) in enumerate(
      zip(keys, shapes.items(), strict=True)
    )
  }


def rms(x):
  return np.sqrt(np.mean(np.square(x)))


def test_feature_fc_steps_equal_numpy(x64, monkeypatch):
  monkeypatch.setattr(coordinates, 'BLOCK', 7)
  names = ('progress', 'gradient', 'distance', 'momentum')
  estimator = mq_jax.feature_fc(
    features=names, hidden=3, decay=0.8, steps=2, threshold=0.1
  )
  w = leaves(0)
  phi = estimator.init(jax.random.key(1), w)
  phi = jax.tree.map(lambda x: x + 0.2, phi)
  state = estimator.init_state(jax.random.key(2), w)
  first, last = jax.tree.map(np.asarray, phi)
  momentum = dict.fromkeys(w, 0.0)
  for step in range(4):
    g = leaves(10 + step)
    g_tilde, state = estimator.apply(
      phi, mq_jax.Signals({}, g, w, step=step), state
    )
    for path in w:
      momentum[path] = 0.8 * momentum[path] + 0.2 * np.asarray(g[path])
      columns = [
        np.full(w[path].shape, min(step / 2, 1)),
        g[path] / rms(g[path]),
        (w[path] - 0.1) / rms(w[path] - 0.1),
        momentum[path] / rms(momentum[path]),
      ]
      x = np.stack([np.ravel(column) for column in columns], axis=1)
      signal = np.tanh(x @ first['kernel'] + first['bias'])
      factor = (signal @ last['kernel'] + last['bias'])[:, 0]
      np.testing.assert_allclose(
        g_tilde[path], np.asarray(g[path]) * factor.reshape(w[path].shape)
      )


def test_feature_fc_training_starts_at_ste_and_then_differs(x64):
  estimator = mq_jax.feature_fc()
  train = problem.make(estimator=estimator, learning_rate=0.01)
  ste = problem.make(estimator=mq_jax.ste(), learning_rate=0.01)
  state, plain = problem.start(train), problem.start(ste)
  first, *rest = problem.batches(40)
  state, _ = train.step(state, first)
  plain, _ = ste.step(plain, first)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
    state.params,
    plain.params,
  )
  for batch in rest:
    state, metrics = train.step(state, batch)
    assert metrics['finite']
  assert int(state.step) == 40
  assert np.any(state.phi[1]['kernel'] != 0)


def test_feature_fc_zero_gradients_give_zero():
  estimator = mq_jax.feature_fc()
  zeros = {'a': jnp.zeros((2, 3))}
  phi = estimator.init(jax.random.key(0), zeros)
  state = estimator.init_state(jax.random.key(0), zeros)
  g_tilde, state = estimator.apply(
    phi, mq_jax.Signals(zeros, zeros, zeros), state
  )
  assert not np.any(g_tilde['a'])
  assert np.all(np.isfinite(state['a']))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'features': ('gradient', 'age')}, r"\['age'\] are unknown"),
    ({'features': ()}, r'features=\(\)'),
    (
      {'features': ('gradient', 'gradient')},
      'non-empty and contain no duplicates',
    ),
    ({'decay': 1.0}, 'decay=1.0'),
    ({'hidden': 0}, 'hidden=0'),
    ({'steps': 0}, 'steps=0'),
  ],
)
def test_feature_fc_bad_argument_raises(options, message):
  with pytest.raises(ValueError, match=message):
    mq_jax.feature_fc(**options)
