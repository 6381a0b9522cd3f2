"""Tests the interpolation between the points of a grid, and LSTMFC on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax.estimators import interpolation
from tests.estimators import signals
from tests.estimators.test_lstm import sigmoid

X = np.array([[-0.7, 0.1, 0.4], [1.3, 0.25, -0.2]])


@pytest.mark.parametrize('count', [2, 3, 10])
def test_interpolate_equals_numpy(x64, count):
  values = np.random.default_rng(0).normal(size=count)
  points, positions = interpolation.grid(jnp.asarray(X), count)
  np.testing.assert_allclose(points, np.linspace(-0.7, 1.3, count), rtol=1e-14)
  np.testing.assert_allclose(
    interpolation.interpolate(jnp.asarray(values), positions),
    np.interp(X, np.linspace(-0.7, 1.3, count), values),
    rtol=1e-12,
  )


def test_interpolate_gradient_equals_weights_of_points(x64):
  cotangent = np.array([[0.3, -2.0, 1.0], [0.7, 0.0, 0.2]])
  _, positions = interpolation.grid(jnp.asarray(X), 4)
  gradient = jax.grad(
    lambda values: jnp.sum(
      cotangent * interpolation.interpolate(values, positions)
    )
  )(jnp.ones(4))
  expected = [
    np.sum(cotangent * np.interp(X, np.linspace(-0.7, 1.3, 4), one))
    for one in np.eye(4)
  ]
  np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_interpolate_equal_coordinates_have_first_value():
  points, positions = interpolation.grid(jnp.full((2, 2), 0.3), 5)
  values = jnp.arange(5.0) + 7
  np.testing.assert_array_equal(points, np.float32(0.3))
  np.testing.assert_array_equal(
    interpolation.interpolate(values, positions), 7.0
  )


def lstm_at(phi, x, memory):
  """Returns the factor and the memory after one step, in NumPy."""
  lstm = {name: np.asarray(leaf) for name, leaf in phi['lstm'].items()}
  h, c = memory
  gates = x[:, None] * lstm['input_kernel'] + h @ lstm['recurrent_kernel']
  gates += lstm['input_bias'] + lstm['recurrent_bias']
  i, f, g, o = np.split(gates, 4, axis=-1)
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(c)
  head = {name: np.asarray(leaf) for name, leaf in phi['head'].items()}
  return (h @ head['kernel'] + head['bias'])[:, 0], (h, c)


@pytest.mark.parametrize('carry', [True, False])
def test_lstm_fc_with_grid_equals_numpy_while_weights_move(x64, carry):
  points, hidden = 6, 3
  estimator = mq_jax.lstm_fc(hidden=hidden, carry=carry, grid_points=points)
  g_hat, w_tilde, _ = signals.gradients()
  phi = estimator.init(jax.random.key(0), w_tilde)
  state = estimator.init_state(jax.random.key(9), w_tilde)
  empty = np.zeros((points, hidden)), np.zeros((points, hidden))
  memory = dict.fromkeys(w_tilde, empty)
  for step in range(3):
    moved = {path: w + 0.1 * step * w**2 for path, w in w_tilde.items()}
    g_tilde, state = signals.apply(estimator, phi, state, w_tilde=moved)
    for path, w in moved.items():
      at = np.linspace(w.min(), w.max(), points)
      factor, after = lstm_at(phi, at, memory[path])
      memory[path] = after if carry else empty
      np.testing.assert_allclose(
        g_tilde[path], g_hat[path] * np.interp(w, at, factor), rtol=1e-11
      )


def test_lstm_fc_with_grid_at_all_coordinates_equals_one_without(x64):
  # Each leaf lies on the points, in another order, and does not move.
  w_tilde = {
    'a': jnp.linspace(-1.0, 2.0, 7)[jnp.array([3, 0, 6, 1, 2, 5, 4])],
    'b': jnp.linspace(0.1, 0.4, 7).reshape(7, 1),
  }
  g_hat = {path: jnp.cos(5 * w) for path, w in w_tilde.items()}
  exact, shared = (
    mq_jax.lstm_fc(hidden=5, grid_points=points) for points in (0, 7)
  )
  phi = exact.init(jax.random.key(1), w_tilde)

  def run(estimator, phi):
    state = estimator.init_state(jax.random.key(9), w_tilde)
    total = 0.0
    for _ in range(3):
      g_tilde, state = estimator.apply(
        phi, mq_jax.Signals(g_hat, g_hat, w_tilde), state
      )
      total += sum(jnp.sum(g**2) for g in g_tilde.values())
    return total

  of_exact, of_shared = (
    jax.value_and_grad(lambda phi, e=e: run(e, phi))(phi)
    for e in (exact, shared)
  )
  signals.assert_close(of_shared, of_exact, 1e-11)


def test_lstm_fc_error_falls_with_square_of_grid_points(x64):
  w_tilde = {'a': jnp.asarray(np.random.default_rng(0).normal(size=500))}
  ones = {'a': jnp.ones(500)}
  exact = mq_jax.lstm_fc(hidden=20)
  phi = exact.init(jax.random.key(2), w_tilde)

  def factor(points):
    estimator = mq_jax.lstm_fc(hidden=20, grid_points=points)
    state = estimator.init_state(jax.random.key(9), w_tilde)
    for _ in range(4):
      g_tilde, state = estimator.apply(
        phi, mq_jax.Signals(ones, ones, w_tilde), state
      )
    return g_tilde['a']

  few, many = (np.abs(factor(points) - factor(0)).max() for points in (9, 33))
  assert many < few / 10 < 1e-3


def test_lstm_fc_state_with_grid_does_not_depend_on_coordinates():
  estimator = mq_jax.lstm_fc(hidden=4, grid_points=8)
  for size in (3, 300):
    leaves = {'a': jnp.zeros(size), 'b': jnp.zeros((size, 2))}
    state = estimator.init_state(jax.random.key(0), leaves)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(16, 4)] * 2


@pytest.mark.parametrize('points', [1, -4, 2.0, True])
def test_lstm_fc_bad_grid_points_raise(points):
  with pytest.raises(ValueError, match=r'grid_points=.* integer of at least 2'):
    mq_jax.lstm_fc(grid_points=points)


def test_lstm_fc_grid_points_with_memory_dtype_raise():
  with pytest.raises(
    ValueError, match=r'memory_dtype=.*grid_points=8.*Leave one'
  ):
    mq_jax.lstm_fc(grid_points=8, memory_dtype=jnp.bfloat16)
