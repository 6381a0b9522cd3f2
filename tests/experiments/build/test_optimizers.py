"""Compares optimizers and learning rates with computations by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import optimizers
from experiments.build.parts import make_parts
from tests.experiments import tiny


def test_learning_rate_drops_at_configured_epochs():
  def rates(steps, **values):
    config = tiny.config(learning_rate=0.5, **values)
    rate = optimizers.make_learning_rate(
      config, steps_per_epoch=5, initial=config.learning_rate
    )
    return [float(rate(step)) for step in steps]

  np.testing.assert_allclose(
    rates((0, 9, 10, 19, 20), decay_every=2),
    [0.5, 0.5, 0.05, 0.05, 0.005],
    rtol=1e-6,
  )
  assert rates((0, 1000), decay_every=0) == [0.5, 0.5]
  # `decay_at` lists the epochs; `decay_every` then has no effect.
  np.testing.assert_allclose(
    rates((4, 5, 14, 15), decay_at='1 3', decay_factor=0.5),
    [0.5, 0.25, 0.25, 0.125],
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  'values',
  [
    {'decay_at': '1 99999999999999999999'},
    {'decay_every': 3_000_000_000},
    {'meta_stop': 3_000_000_000, 'meta_decay_every': 3_000_000_000},
  ],
)
def test_epochs_after_the_last_step_of_int32_are_never_reached(values):
  config = tiny.config(estimator='fc_grad', learning_rate=0.5, **values)
  arguments = make_parts(config, 5).step_arguments
  rate = jax.jit(arguments['learning_rate'])(jnp.int32(7))
  assert float(rate) == pytest.approx(0.05 if 'decay_at' in values else 0.5)
  meta, phi = arguments['meta_optimizer'], jnp.zeros(())
  move, _ = jax.jit(meta.update)(jnp.ones(()), meta.init(phi), phi)
  assert float(move) < 0


def test_weights_follow_cosine_to_zero_where_schedule_says_so():
  config = tiny.config(schedule='cosine', epochs=4, learning_rate=0.5)
  rate = make_parts(config, 5).step_arguments['learning_rate']
  np.testing.assert_allclose(
    [float(rate(step)) for step in (0, 5, 10, 20)],
    [0.5, 0.25 * (1 + np.sqrt(0.5)), 0.25, 0],
    rtol=1e-6,
    atol=1e-9,
  )


def test_meta_optimizer_updates_phi_every_n_steps_until_meta_stop():
  config = tiny.config(
    meta_optimizer='sgd',
    meta_learning_rate=0.5,
    meta_every=3,
    meta_stop=2,
    meta_decay_every=1,
  )
  optimizer = optimizers.make_meta_optimizer(config, steps_per_epoch=6)
  phi, moves = jnp.array(0.0), []
  state = optimizer.init(phi)
  for _ in range(16):
    move, state = optimizer.update(jnp.array(1.0), state, phi)
    moves.append(float(-move))
  expected = np.zeros(16)
  expected[[0, 3]], expected[[6, 9]] = 0.5, 0.05
  np.testing.assert_allclose(moves, expected, rtol=1e-6)


def refine_last(refine, params, *gradients):
  """Returns the last refined gradient of one weight."""
  state = refine.init(params)
  for gradient in gradients:
    out, state = refine.update(gradient, state, params)
  return float(out)


@pytest.mark.usefixtures('x64')
def test_refine_two_gradients_match_hand_computation():
  weight, first, second = jnp.array(3.0), jnp.array(2.0), jnp.array(1.0)

  def last(**values):
    return refine_last(
      optimizers.make_refine(tiny.config(**values)), weight, first, second
    )

  assert last(optimizer='sgd') == 1.0
  # 0.9·2 + 1
  assert last(optimizer='momentum') == pytest.approx(2.8)
  # m = (0.9·0.2 + 0.1)/(1 − 0.81), v = (0.999·0.004 + 0.001)/(1 − 0.998001)
  m, v = 0.28 / 0.19, 0.004996 / 0.001999
  assert last(optimizer='adam') == pytest.approx(m / (np.sqrt(v) + 1e-8))
  assert last(optimizer='adam', eps_root=1.0) == pytest.approx(
    m / (np.sqrt(v + 1) + 1e-8)
  )
  # The decay is added to the gradient before momentum: 0.9·(2 + 0.3) + 1.3
  decayed = last(optimizer='momentum', weight_decay=0.1)
  assert decayed == pytest.approx(0.9 * 2.3 + 1.3)
  # A decoupled decay is added to the update of Adam: plus 0.1·3.
  assert last(optimizer='adamw', weight_decay=0.1) == pytest.approx(
    m / (np.sqrt(v) + 1e-8) + 0.3
  )
  # v = 0.9·0.4 + 0.1
  assert last(optimizer='rmsprop') == pytest.approx(1 / np.sqrt(0.46 + 1e-8))
  # The sign of 0.9·m + 0.1·g, with m = 0.01·2; then −0.9·0.02 + 0.1·0.1 < 0.
  assert last(optimizer='lion') == 1.0
  refine = optimizers.make_refine(
    tiny.config(optimizer='lion', weight_decay=0.1)
  )
  negative = refine_last(refine, weight, jnp.array(-2.0), jnp.array(0.1))
  assert negative == pytest.approx(-1 + 0.3)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('estimator', ['ste', 'fc_grad'])
@pytest.mark.parametrize('decay', [0.0, 0.1])
@pytest.mark.parametrize('optimizer', optimizers.OPTIMIZERS)
def test_train_step_of_optimizer_matches_formula(optimizer, decay, estimator):
  """Uses a loss that is linear in Ŵ, so the gradient is g, or s·g."""
  config = tiny.config(
    quantizer='bwn',
    scaled_gradient=False,
    clip=0.0,
    estimator=estimator,
    layers=1,
    init='identity',
    optimizer=optimizer,
    weight_decay=decay,
    learning_rate=0.25,
  )
  w = np.array([[0.5, -2.0], [1.5, 3.0]])
  g = np.array([[2.0, -0.5], [-1.0, 0.25]])

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(batch * params['kernel']), (model_state, {})

  train = tiny.step_of(config, loss_fn, steps_per_epoch=10)
  state = train.init(
    jax.random.key(0), {'kernel': jnp.asarray(w)}, {}, jnp.asarray(g)
  )
  state, _ = train.step(state, jnp.asarray(g))
  decoupled = optimizers.OPTIMIZERS[optimizer].decoupled
  coupled = g if decoupled else g + decay * w
  refined = {
    'sgd': coupled,
    'momentum': coupled,
    'adam': coupled / (np.abs(coupled) + 1e-8),
    'adamw': coupled / (np.abs(coupled) + 1e-8),
    'rmsprop': coupled / np.sqrt(0.1 * coupled**2 + 1e-8),
    'lion': np.sign(coupled),
  }[optimizer]
  expected = w - 0.25 * (refined + decay * w * decoupled)
  np.testing.assert_allclose(state.params['kernel'], expected, rtol=1e-9)


def test_train_step_unquantized_leaf_moves_by_learning_rate():
  """Tests that the leaf moves by −α(t)·gradient."""
  config = tiny.config(
    quantizer='dorefa',
    estimator='ste',
    optimizer='sgd',
    learning_rate=0.5,
    decay_every=1,
  )

  def loss_fn(params, model_state, batch, rng):
    loss = jnp.sum(params['bias'] * batch) + jnp.sum(params['kernel'] ** 2)
    return loss, (model_state, {})

  train = tiny.step_of(config, loss_fn, steps_per_epoch=2)
  params = {'bias': jnp.zeros(2), 'kernel': jnp.ones((2, 2))}
  ones = jnp.ones(2)
  state = train.init(jax.random.key(0), params, {}, ones)
  biases = []
  for _ in range(4):
    state, _ = train.step(state, ones)
    biases.append(float(state.params['bias'][0]))
  np.testing.assert_allclose(biases, [-0.5, -1.0, -1.05, -1.1], rtol=1e-6)
