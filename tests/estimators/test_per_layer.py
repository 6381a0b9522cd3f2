"""Tests that `per_layer` estimates each layer with its own φ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from tests import problem


def leaves(seed):
  keys = jax.random.split(jax.random.key(seed), 2)
  return {
    'a': jax.random.normal(keys[0], (3, 5)),
    'b': jax.random.normal(keys[1], (4,)),
  }


@pytest.mark.parametrize(
  'inner', [mq_jax.multi_fc(hidden=3), mq_jax.lstm_fc(hidden=2)]
)
def test_per_layer_equals_separate_estimators(x64, inner):
  estimator = mq_jax.per_layer(inner)
  g, w = leaves(0), leaves(1)
  phi = estimator.init(jax.random.key(2), w)
  state = estimator.init_state(jax.random.key(3), w)
  first = {path: jax.tree.leaves(part)[0] for path, part in phi.items()}
  assert np.all(first['a'] != first['b'])
  for _ in range(2):
    before = state
    g_tilde, state = estimator.apply(phi, mq_jax.Signals(g, g, w), state)
    for path in w:
      layer_g, layer_w = {path: g[path]}, {path: w[path]}
      alone, alone_state = inner.apply(
        phi[path], mq_jax.Signals(layer_g, layer_g, layer_w), before[path]
      )
      np.testing.assert_array_equal(g_tilde[path], alone[path])
      jax.tree.map(np.testing.assert_array_equal, state[path], alone_state)


def test_per_layer_fc_grad_gradient_is_hypergradient(x64):
  """Tests that ∂loss/∂k of a layer is −α times the product of two gradients."""
  estimator = mq_jax.per_layer(mq_jax.fc_grad(layers=1, init='identity'))
  train = problem.make(problem.smooth(), estimator, learning_rate=0.1)
  first, second = problem.batches(2)
  state = train.init(
    jax.random.key(0), problem.params(), problem.model_state(), first
  )
  assert {k: float(v) for k, v in train.diagnostics(state).factor.items()} == {
    'first/kernel/s': 1.0,
    'last/kernel/s': 1.0,
  }
  gradient = jax.grad(train.phi_loss)(state.phi, state, second)

  def loss(params, batch):
    w_hat = jax.tree.map(lambda w: jnp.tanh(w) if w.ndim == 2 else w, params)
    return problem.loss_fn(w_hat, problem.model_state(), batch, None)[0]

  g = jax.grad(loss)(problem.params(), first)
  moved = jax.tree.map(lambda w, g: w - 0.1 * g, problem.params(), g)
  next_g = jax.grad(loss)(moved, second)
  for layer in ('first', 'last'):
    want = -0.1 * jnp.sum(g[layer]['kernel'] * next_g[layer]['kernel'])
    got = gradient[f'{layer}/kernel'][0]['kernel'][0, 0]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_per_layer_of_slim_raises():
  inner = mq_jax.slim(mq_jax.fc_grad(hidden=2))
  with pytest.raises(ValueError, match=r'write slim\(per_layer\('):
    problem.start(problem.make(mq_jax.bwn(), mq_jax.per_layer(inner)))
