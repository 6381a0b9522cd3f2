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
  points = interpolation.grid(jnp.asarray(X), count)
  positions = interpolation.locate(points, jnp.asarray(X))
  np.testing.assert_allclose(points, np.linspace(-0.7, 1.3, count), rtol=1e-14)
  np.testing.assert_allclose(
    interpolation.interpolate(jnp.asarray(values), positions),
    np.interp(X, np.linspace(-0.7, 1.3, count), values),
    rtol=1e-12,
  )


def test_interpolate_gradient_equals_weights_of_points(x64):
  cotangent = np.array([[0.3, -2.0, 1.0], [0.7, 0.0, 0.2]])
  points = interpolation.grid(jnp.asarray(X), 4)
  positions = interpolation.locate(points, jnp.asarray(X))
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
  x = jnp.full((2, 2), 0.3)
  points = interpolation.grid(x, 5)
  positions = interpolation.locate(points, x)
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


def moved_memory(memory, old, new):
  """Interpolates the memory of each unit to the new points, in NumPy."""
  return tuple(
    np.stack([np.interp(new, old, unit) for unit in part.T], axis=-1)
    for part in memory
  )


@pytest.mark.parametrize('carry', [True, False])
def test_lstm_fc_with_grid_equals_numpy_while_weights_move(x64, carry):
  count, hidden = 6, 3
  estimator = mq_jax.lstm_fc(hidden=hidden, carry=carry, grid_points=count)
  g_hat, w_tilde, _ = signals.gradients()
  phi = estimator.init(jax.random.key(0), w_tilde)
  state = estimator.init_state(jax.random.key(9), w_tilde)
  empty = np.zeros((count, hidden)), np.zeros((count, hidden))
  last = {path: (np.linspace(0, 1, count), empty) for path in w_tilde}
  for step in range(4):
    # The range of the leaves grows at one end, and then shrinks.
    moved = {
      path: w + (0.1, 0.4, 0.2, 0.0)[step] * w**2 for path, w in w_tilde.items()
    }
    g_tilde, state = signals.apply(estimator, phi, state, w_tilde=moved)
    for path, w in moved.items():
      at = np.linspace(w.min(), w.max(), count)
      old, memory = last[path]
      factor, after = lstm_at(phi, at, moved_memory(memory, old, at))
      last[path] = at, after if carry else empty
      np.testing.assert_allclose(
        g_tilde[path], g_hat[path] * np.interp(w, at, factor), rtol=1e-10
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


def largest_error(points, move, steps=6):
  """Returns the largest error of the factor on a grid, but for weight 0."""
  leaves = {'a': jnp.asarray(np.random.default_rng(0).normal(size=500))}
  ones = {'a': jnp.ones(500)}
  exact, on_grid = (
    mq_jax.lstm_fc(hidden=20, grid_points=count) for count in (0, points)
  )
  phi = exact.init(jax.random.key(2), leaves)
  states = [e.init_state(jax.random.key(9), leaves) for e in (exact, on_grid)]
  for step in range(steps):
    read = mq_jax.Signals(ones, ones, {'a': move(leaves['a'], step)})
    factor, states[0] = exact.apply(phi, read, states[0])
    other, states[1] = on_grid.apply(phi, read, states[1])
  return float(jnp.abs(factor['a'] - other['a'])[1:].max())


def test_lstm_fc_error_falls_with_square_of_grid_points(x64):
  few, many = (largest_error(count, lambda w, step: w) for count in (9, 33))
  assert many < few / 10 < 1e-3


def test_lstm_fc_outlier_does_not_change_factors_of_others(x64):
  def with_outlier(w, step):
    return w.at[0].set(2.0 * w[1:].max()) if step > 2 else w

  assert largest_error(65, with_outlier) < 1e-4


@pytest.mark.parametrize(
  'wrap', [lambda e: e, mq_jax.slim, mq_jax.per_layer], ids=['', 'slim', 'each']
)
def test_lstm_fc_with_grid_starts_at_straight_through(wrap):
  estimator = wrap(mq_jax.lstm_fc(hidden=3, init='identity', grid_points=4))
  read = signals.signals()
  phi = estimator.init(jax.random.key(0), read.w_tilde)
  state = estimator.init_state(jax.random.key(1), read.w_tilde)
  for _ in range(2):
    g_tilde, state = estimator.apply(phi, read, state)
    for path, g in g_tilde.items():
      np.testing.assert_array_equal(g, read.g_ste[path])


def test_lstm_fc_with_grid_mixed_dtypes_equal_separate_leaves(x64):
  leaves = {
    'a': jnp.linspace(-1.0, 1.0, 20),
    'b': jnp.linspace(0.0, 2.0, 20, dtype=jnp.float32),
    'c': jnp.linspace(0.0, 2.0, 20, dtype=jnp.bfloat16),
  }
  estimator = mq_jax.lstm_fc(hidden=3, grid_points=20)
  phi = estimator.init(jax.random.key(0), leaves)
  for chosen in (leaves, {'a': leaves['a']}):
    ones = jax.tree.map(jnp.ones_like, chosen)
    state = estimator.init_state(jax.random.key(1), chosen)
    for _ in range(2):
      factor, state = estimator.apply(
        phi, mq_jax.Signals(ones, ones, chosen), state
      )
    if chosen is leaves:
      together = factor
  np.testing.assert_allclose(together['a'], factor['a'], rtol=1e-6)
  np.testing.assert_allclose(
    np.float32(together['b']), np.float32(together['c']), rtol=2e-2
  )


def test_lstm_fc_with_grid_is_constant_in_weights_and_memory():
  estimator = mq_jax.lstm_fc(hidden=3, grid_points=4)
  read = signals.signals()
  phi = estimator.init(jax.random.key(0), read.w_tilde)
  state = signals.apply(estimator, phi)[1]

  def total(w_tilde, state):
    g_tilde, _ = estimator.apply(phi, read._replace(w_tilde=w_tilde), state)
    return sum(jnp.sum(g) for g in g_tilde.values())

  gradients = jax.grad(total, argnums=(0, 1))(read.w_tilde, state)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_lstm_fc_with_grid_of_several_seeds_equals_separate_seeds():
  estimator = mq_jax.lstm_fc(hidden=3, grid_points=4)
  read = signals.signals()

  def run(key):
    phi = estimator.init(key, read.w_tilde)
    state = estimator.init_state(key, read.w_tilde)
    for _ in range(2):
      g_tilde, state = estimator.apply(phi, read, state)
    return g_tilde

  keys = jax.random.split(jax.random.key(3), 3)
  together = jax.vmap(run)(keys)
  for seed, key in enumerate(keys):
    signals.assert_close(
      jax.tree.map(lambda leaf, s=seed: leaf[s], together), run(key), 1e-5
    )


def test_lstm_fc_state_with_grid_does_not_depend_on_coordinates():
  estimator = mq_jax.lstm_fc(hidden=4, grid_points=8)
  for size in (3, 300):
    leaves = {'a': jnp.zeros(size), 'b': jnp.zeros((size, 2))}
    state = estimator.init_state(jax.random.key(0), leaves)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert shapes == [(2, 8), (2, 8, 4), (2, 8, 4)]


@pytest.mark.parametrize('points', [1, -4, 2.0, True])
def test_lstm_fc_bad_grid_points_raise(points):
  with pytest.raises(ValueError, match=r'grid_points=.* integer of at least 2'):
    mq_jax.lstm_fc(grid_points=points)


def test_lstm_fc_grid_points_with_memory_dtype_raise():
  with pytest.raises(
    ValueError, match=r'memory_dtype is.*grid_points=8.*Leave memory'
  ):
    mq_jax.lstm_fc(grid_points=8, memory_dtype=jnp.bfloat16)
