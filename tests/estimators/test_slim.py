"""Tests `slim`: the forward pass of all layers, the φ-gradient of one layer."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax.estimators import coordinates
from tests import problem

ESTIMATORS = {
  'fc_grad': mq_jax.fc_grad(hidden=5),
  'multi_fc, tanh': mq_jax.multi_fc(hidden=5, activation='tanh'),
  'lstm_fc': mq_jax.lstm_fc(hidden=3),
}


def leaves(seed):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = {'a': (3, 5), 'b': (4,), 'c': (2, 2, 3)}
  return {
    path: jax.random.normal(key, shape)
    for key, (path, shape) in zip(keys, shapes.items(), strict=True)
  }


@functools.partial(jax.jit, static_argnums=0)
def phi_gradient(estimator, phi, state, cotangent):
  g, w = leaves(0), leaves(1)
  g_tilde, pullback, new_state = jax.vjp(
    lambda phi: estimator.apply(phi, mq_jax.Signals(g, g, w), state),
    phi,
    has_aux=True,
  )
  return g_tilde, pullback(cotangent)[0], new_state


# Only optimized code rounds both programs alike.
@pytest.mark.optimized
@pytest.mark.parametrize('name', ESTIMATORS)
def test_slim_gradient_equals_gradient_of_one_layer(x64, monkeypatch, name):
  monkeypatch.setattr(coordinates, 'BLOCK', 4)  # layers share blocks
  full, slim = ESTIMATORS[name], mq_jax.slim(ESTIMATORS[name])
  w, cotangent = leaves(1), leaves(2)
  phi = slim.init(jax.random.key(3), w)
  state = slim.init_state(jax.random.key(4), w)
  drawn = collections.Counter()
  for _ in range(12):
    g_tilde, gradient, new_state = phi_gradient(slim, phi, state, cotangent)
    want, _, inner = phi_gradient(full, phi, state.inner, cotangent)
    jax.tree.map(np.testing.assert_array_equal, g_tilde, want)
    jax.tree.map(np.testing.assert_array_equal, new_state.inner, inner)
    fits = []
    for path in w:
      only = {p: x * (p == path) for p, x in cotangent.items()}
      alone = phi_gradient(full, phi, state.inner, only)[1]
      same = jax.tree.map(
        lambda a, b: np.allclose(a, b, rtol=1e-12, atol=1e-14), gradient, alone
      )
      if all(jax.tree.leaves(same)):
        fits.append(path)
    assert len(fits) == 1
    drawn.update(fits)
    state = new_state
  assert set(drawn) == set(w)


def test_slim_draws_layers_uniformly():
  slim = mq_jax.slim(mq_jax.fc_grad(layers=1))
  w = {path: jnp.ones(()) for path in 'abcd'}
  cotangent = {path: jnp.asarray(10.0**i) for i, path in enumerate('abcd')}
  phi = slim.init(jax.random.key(0), w)

  def draw(state, _):
    _, pullback, state = jax.vjp(
      lambda phi: slim.apply(phi, mq_jax.Signals(w, w, w), state),
      phi,
      has_aux=True,
    )
    return state, pullback(cotangent)[0][0]['kernel'][0, 0]

  state = slim.init_state(jax.random.key(1), w)
  _, drawn = jax.lax.scan(draw, state, length=4000)
  counts = [int(jnp.sum(drawn == 10.0**i)) for i in range(4)]
  assert sum(counts) == 4000
  # Four standard deviations of a binomial count with p = 1/4.
  assert all(abs(count - 1000) < 4 * (4000 * 3 / 16) ** 0.5 for count in counts)


def test_slim_training_lowers_loss():
  train = problem.make(estimator=mq_jax.slim(mq_jax.multi_fc(hidden=5)))
  state = problem.start(train)
  first_phi = jax.tree.map(np.asarray, state.phi)
  losses = []
  for batch in problem.batches(60):
    state, metrics = train.step(state, batch)
    losses.append(float(metrics['loss']))
    assert metrics['finite']
  assert np.mean(losses[-10:]) < np.mean(losses[:10])
  moved = jax.tree.map(lambda a, b: np.any(a != b), state.phi, first_phi)
  assert all(jax.tree.leaves(moved))
