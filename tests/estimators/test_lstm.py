"""Tests LSTMFC: eq. (11), its gradient and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax.estimators import lstm_cell
from tests.estimators import signals


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize('carry', [True, False])
def test_lstm_fc_one_unit_equals_hand_computed_steps(x64, carry):
  estimator = mq_jax.lstm_fc(hidden=1, carry=carry)
  phi = {
    'lstm': {
      'input_kernel': jnp.array([[0.3, -0.2, 0.9, 0.4]]),
      'recurrent_kernel': jnp.array([[0.1, 0.5, -0.6, 0.2]]),
      'input_bias': jnp.array([0.05, 0.1, 0.0, -0.1]),
      'recurrent_bias': jnp.array([0.02, 0.0, 0.3, 0.1]),
    },
    'head': {'kernel': jnp.array([[1.7]]), 'bias': jnp.array([-0.3])},
  }
  g_hat, w_tilde, _ = signals.gradients()
  state = estimator.init_state(jax.random.key(9), w_tilde)
  memory = {path: (0.0, 0.0) for path in g_hat}
  for _ in range(3):
    g_tilde, state = signals.apply(estimator, phi, state)
    for path, x in w_tilde.items():
      h, c = memory[path] if carry else (0.0, 0.0)
      i = sigmoid(0.3 * x + 0.1 * h + 0.07)
      f = sigmoid(-0.2 * x + 0.5 * h + 0.1)
      g = np.tanh(0.9 * x - 0.6 * h + 0.3)
      o = sigmoid(0.4 * x + 0.2 * h + 0.0)
      c = f * c + i * g
      h = o * np.tanh(c)
      memory[path] = h, c
      np.testing.assert_allclose(
        g_tilde[path], g_hat[path] * (1.7 * h - 0.3), rtol=1e-12
      )


@pytest.mark.slow
def test_lstm_fc_phi_gradient_equals_finite_differences(x64):
  estimator = mq_jax.lstm_fc(hidden=3)
  w_tilde = signals.gradients()[1]
  phi = estimator.init(jax.random.key(0), w_tilde)
  _, state = signals.apply(estimator, phi)

  def objective(phi):
    g_tilde, _ = signals.apply(estimator, phi, state)
    return sum(jnp.sum(leaf**2) for leaf in g_tilde.values())

  flat, unflatten = jax.flatten_util.ravel_pytree(phi)
  gradient = jax.flatten_util.ravel_pytree(jax.grad(objective)(phi))[0]
  eps = 1e-6
  for index in range(0, flat.size, 5):
    step = jnp.zeros_like(flat).at[index].set(eps)
    difference = objective(unflatten(flat + step)) - objective(
      unflatten(flat - step)
    )
    np.testing.assert_allclose(
      difference / (2 * eps), gradient[index], rtol=1e-6, atol=1e-7
    )


def test_lstm_fc_memory_is_constant_in_phi():
  estimator = mq_jax.lstm_fc(hidden=3)
  w_tilde = signals.gradients()[1]
  phi = estimator.init(jax.random.key(0), w_tilde)
  gradient = jax.grad(
    lambda phi: sum(
      jnp.sum(x) for x in jax.tree.leaves(signals.apply(estimator, phi)[1])
    )
  )(phi)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_lstm_fc_bfloat16_memory_rounds_once_per_step(x64):
  """Compares with an LSTM whose memory is rounded between steps."""
  leaves = {'a': jnp.linspace(-1.0, 1.0, 7), 'b': jnp.ones((2, 3)) / 3}
  estimator = mq_jax.lstm_fc(hidden=4, memory_dtype=jnp.bfloat16)
  phi = estimator.init(jax.random.key(3), leaves)
  state = estimator.init_state(jax.random.key(9), leaves)
  wide = mq_jax.lstm_fc(hidden=4).init_state(jax.random.key(9), leaves)
  assert state.memory.h.nbytes * 4 == wide.memory.h.nbytes  # of float64
  x = jnp.concatenate([leaf.ravel() for leaf in leaves.values()])
  memory = lstm_cell.Memory(jnp.zeros((13, 4)), jnp.zeros((13, 4)))
  for _ in range(4):
    ones = {k: jnp.ones_like(v) for k, v in leaves.items()}
    factor, state = estimator.apply(
      phi, mq_jax.Signals(ones, {}, leaves), state
    )
    memory = lstm_cell.cell(phi['lstm'], x, memory)
    expected = memory.h @ phi['head']['kernel'] + phi['head']['bias'][None]
    got = jnp.concatenate([factor[path].ravel() for path in leaves])
    np.testing.assert_allclose(got, expected[:, 0], rtol=1e-12)
    memory = jax.tree.map(
      lambda part: part.astype(jnp.bfloat16).astype(jnp.float64), memory
    )


@pytest.mark.parametrize('dtype', [jnp.int8, 'int16'])
def test_lstm_fc_integer_memory_dtype_raises(dtype):
  with pytest.raises(ValueError, match=r'memory_dtype=.*floating point'):
    mq_jax.lstm_fc(memory_dtype=dtype)
