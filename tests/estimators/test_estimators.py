"""Estimators: their equations, the collapse of stacks, blocks, starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax.estimators import coordinates, lstm_cell, stacks

LAYER_SHAPES = {'a/kernel': (3, 3, 2, 4), 'b/kernel': (5, 7)}


def leaves(seed, scale=1.0):
  keys = jax.random.split(jax.random.key(seed), len(LAYER_SHAPES))
  return {
    path: scale * jax.random.normal(key, shape)
    for key, (path, shape) in zip(keys, LAYER_SHAPES.items(), strict=True)
  }


def gradients():
  g_hat, w_tilde = leaves(0), leaves(1, 0.5)
  g_ste = {path: 0.3 * g for path, g in g_hat.items()}
  return g_hat, w_tilde, g_ste


def apply(estimator, phi, state=None):
  g_hat, w_tilde, g_ste = gradients()
  state = (
    estimator.init_state(jax.random.key(9), w_tilde) if state is None else state
  )
  return estimator.apply(phi, g_hat, w_tilde, g_ste, state)


def assert_close(ours, theirs, tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=tolerance, atol=tolerance
    ),
    ours,
    theirs,
  )


STACKS = [
  (layers, activation, bias, last_bias)
  for layers in (1, 2, 3)
  for activation, bias, last_bias in [
    (None, False, False),
    (None, True, True),
    (None, False, True),
    ('relu', False, False),
    ('relu', False, True),
    ('relu', True, True),
    ('tanh', False, False),
    ('tanh', True, True),
  ]
]


@pytest.mark.parametrize(('layers', 'activation', 'bias', 'last_bias'), STACKS)
def test_the_cheap_way_equals_the_network_in_value_and_gradient(
  x64, layers, activation, bias, last_bias
):
  stack = stacks.checked_stack(7, layers, activation, bias, last_bias)
  phi = stacks.init(jax.random.key(3), stack, jnp.float64)
  x, cotangent = leaves(0), leaves(1)
  x['b/kernel'] = x['b/kernel'].at[0, 0].set(0.0)

  def plain(phi):
    return {
      path: stacks.evaluate(phi, stack, leaf.ravel()).reshape(leaf.shape)
      for path, leaf in x.items()
    }

  ours, back = jax.vjp(lambda phi: stacks.apply(phi, stack, x), phi)
  theirs, plain_back = jax.vjp(plain, phi)
  assert_close(ours, theirs, 1e-12)
  assert_close(back(cotangent)[0], plain_back(cotangent)[0], 1e-12)


def flops(function, *arguments):
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.cost_analysis()['flops']


@pytest.mark.parametrize('activation', [None, 'relu'])
def test_stacks_that_collapse_cost_nothing_per_hidden_unit(activation):
  x = {'kernel': jnp.ones((100, 100))}

  def cost(hidden, activation):
    stack = stacks.checked_stack(hidden, 2, activation, False, False)
    phi = stacks.init(jax.random.key(0), stack, jnp.float32)
    return flops(lambda phi: stacks.apply(phi, stack, x), phi)

  # Some operations a coordinate, whatever the width; tanh has to pay.
  assert cost(300, activation) < 8 * 10_000
  assert cost(300, 'tanh') > 300 * 10_000 / coordinates.BLOCK


def test_uniform_start_within_the_fan_in_bound():
  stack = stacks.checked_stack(400, 3, 'tanh', True, True)
  phi = stacks.init(jax.random.key(0), stack, jnp.float32)
  assert [layer['kernel'].shape for layer in phi] == [
    (1, 400), (400, 400), (400, 1),
  ]  # fmt: skip
  for layer, fan_in in zip(phi, (1, 400, 400), strict=True):
    for leaf in layer.values():
      bound = fan_in**-0.5
      assert jnp.abs(leaf).max() <= bound
      if leaf.size >= 400:
        # The standard deviation of U(-b, b) is b / sqrt(3).
        np.testing.assert_allclose(leaf.std(), bound / 3**0.5, rtol=0.1)


def test_equations_9_to_11_with_one_layer_by_hand():
  g_hat, w_tilde, _ = gradients()
  phi = ({'kernel': jnp.array([[-0.7]])},)
  assert_close(
    apply(mq_jax.fc_grad(layers=1), phi)[0],
    {path: -0.7 * g for path, g in g_hat.items()},
    1e-6,
  )
  assert_close(
    apply(mq_jax.multi_fc(layers=1), phi)[0],
    {path: -0.7 * g * w_tilde[path] for path, g in g_hat.items()},
    1e-6,
  )


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize('carry', [True, False])
def test_lstm_with_one_unit_by_hand(x64, carry):
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
  g_hat, w_tilde, _ = gradients()
  state = estimator.init_state(jax.random.key(9), w_tilde)
  memory = {path: (0.0, 0.0) for path in g_hat}
  for _ in range(3):
    g_tilde, state = apply(estimator, phi, state)
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
def test_lstm_gradient_with_respect_to_phi_by_finite_differences(x64):
  estimator = mq_jax.lstm_fc(hidden=3)
  w_tilde = gradients()[1]
  phi = estimator.init(jax.random.key(0), w_tilde)
  _, state = apply(estimator, phi)

  def objective(phi):
    g_tilde, _ = apply(estimator, phi, state)
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


def test_the_memory_is_a_constant_to_phi():
  estimator = mq_jax.lstm_fc(hidden=3)
  w_tilde = gradients()[1]
  phi = estimator.init(jax.random.key(0), w_tilde)
  gradient = jax.grad(
    lambda phi: sum(
      jnp.sum(x) for x in jax.tree.leaves(apply(estimator, phi)[1])
    )
  )(phi)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  'estimator',
  [
    mq_jax.fc_grad(layers=1, init='identity'),
    mq_jax.fc_grad(layers=2, init='identity'),
    mq_jax.fc_grad(layers=3, bias=True, init='identity'),
    mq_jax.multi_fc(init='identity'),
    mq_jax.multi_fc(activation='relu', init='identity'),
    mq_jax.multi_fc(activation='tanh', bias=True, layers=3, init='identity'),
    mq_jax.lstm_fc(hidden=5, init='identity'),
  ],
)
def test_identity_starts_at_the_straight_through_rule(x64, estimator):
  g_hat, w_tilde, g_ste = gradients()
  phi = estimator.init(jax.random.key(5), w_tilde)
  g_tilde, _ = apply(estimator, phi)
  assert_close(g_tilde, g_ste, 1e-14)
  # And it can leave from there.
  gradient = jax.grad(
    lambda phi: sum(
      jnp.sum(x * g_hat[p]) for p, x in apply(estimator, phi)[0].items()
    )
  )(phi)
  assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_factor_is_what_a_linear_stack_amounts_to():
  g_hat, w_tilde, _ = gradients()
  estimator = mq_jax.multi_fc(hidden=4, layers=3, bias=True)
  phi = estimator.init(jax.random.key(0), w_tilde)
  factor = estimator.factor(phi)
  assert_close(
    apply(estimator, phi)[0],
    {
      path: g * (factor['s'] * w_tilde[path] + factor['offset'])
      for path, g in g_hat.items()
    },
    1e-5,
  )
  plain = mq_jax.fc_grad()
  assert set(plain.factor(plain.init(jax.random.key(0), g_hat))) == {'s'}
  for other in (
    mq_jax.multi_fc(activation='relu'),
    mq_jax.lstm_fc(2),
    mq_jax.ste(),
  ):
    assert other.factor(other.init(jax.random.key(0), w_tilde)) == {}


@pytest.mark.parametrize(('blocks', 'more'), [(0, 1), (1, -1), (1, 0), (3, 5)])
def test_blocks_and_back(blocks, more):
  size = blocks * coordinates.BLOCK + more
  like = {'a': jnp.arange(size, dtype=jnp.float32), 'b': jnp.ones((2, 3))}
  blocks = coordinates.to_blocks(like)
  assert blocks.shape == coordinates.block_shape(like)
  assert blocks.size - coordinates.count(like) < blocks.shape[1]
  back = coordinates.from_blocks(blocks, like)
  assert list(back) == list(like)
  jax.tree.map(np.testing.assert_array_equal, back, like)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: mq_jax.multi_fc(activation='gelu'), "activation='gelu'"),
    (lambda: mq_jax.fc_grad(hidden=0), 'hidden=0'),
    (lambda: mq_jax.multi_fc(layers=1.5), 'layers=1.5'),
    (lambda: mq_jax.lstm_fc(hidden=-3), 'hidden=-3'),
    (lambda: mq_jax.lstm_fc(init='zeros'), "init='zeros'"),
    (
      lambda: mq_jax.fc_grad(activation='tanh', init='identity'),
      "init='identity' needs activation=None",
    ),
  ],
)
def test_bad_arguments_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_narrow_memory_takes_half_and_rounds_once_a_step(x64):
  """By the LSTM itself, with the memory rounded to bfloat16 between steps."""
  leaves = {'a': jnp.linspace(-1.0, 1.0, 7), 'b': jnp.ones((2, 3)) / 3}
  estimator = mq_jax.lstm_fc(hidden=4, memory_dtype=jnp.bfloat16)
  phi = estimator.init(jax.random.key(3), leaves)
  state = estimator.init_state(jax.random.key(9), leaves)
  wide = mq_jax.lstm_fc(hidden=4).init_state(jax.random.key(9), leaves)
  assert state.memory.h.nbytes * 4 == wide.memory.h.nbytes  # of float64
  x = jnp.concatenate([leaf.ravel() for leaf in leaves.values()])
  memory = lstm_cell.Memory(jnp.zeros((13, 4)), jnp.zeros((13, 4)))
  for _ in range(4):
    factor, state = estimator.apply(
      phi, {k: jnp.ones_like(v) for k, v in leaves.items()}, leaves, {}, state
    )
    memory = lstm_cell.cell(phi['lstm'], x, memory)
    expected = memory.h @ phi['head']['kernel'] + phi['head']['bias'][None]
    got = jnp.concatenate([factor[path].ravel() for path in leaves])
    np.testing.assert_allclose(got, expected[:, 0], rtol=1e-12)
    memory = jax.tree.map(
      lambda part: part.astype(jnp.bfloat16).astype(jnp.float64), memory
    )


@pytest.mark.parametrize('dtype', [jnp.int8, 'int16'])
def test_memory_of_integers_is_refused(dtype):
  with pytest.raises(ValueError, match=r'memory_dtype=.*floating point'):
    mq_jax.lstm_fc(memory_dtype=dtype)
