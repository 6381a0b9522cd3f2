"""Tests freezing and dampening of oscillating weights against a simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import methods
from tests import problem
from tests.methods import common

SHAPE = (8, 5)
BWN, UNIFORM = mq_jax.bwn(), methods.uniform(3)


def bwn(w):
  return (w >= 0).astype(int), np.mean(np.abs(w)) * np.array([-1.0, 1.0])


def uniform(w):
  step = np.max(np.abs(w)) / 3
  codes = np.clip(np.floor(w / step + 0.5), -3, 3).astype(int) + 3
  return codes, step * np.arange(-3, 4)


def simulate(quantize, w, moves, threshold, momentum):
  """Yields the weights and the state of each weight after each move."""
  old = quantize(w)[0]
  mean = old.astype(float)
  frequency = np.zeros(w.shape)
  direction, frozen = np.zeros(w.shape, int), np.zeros(w.shape, bool)
  for t, move in enumerate(moves):
    codes, levels = quantize(w + np.where(frozen, 0, move))
    codes = np.where(frozen, old, codes)
    change = np.sign(codes - old)
    is_oscillation = change * direction == -1
    frequency = momentum * is_oscillation + (1 - momentum) * frequency
    direction = np.where(change != 0, change, direction)
    now = ~frozen & (frequency > threshold(t))
    nearest = np.floor(mean + 0.5).astype(int)
    old = np.where(now, nearest, codes)
    mean = momentum * codes + (1 - momentum) * mean
    frozen = frozen | now
    w = np.where(frozen, levels[old], w + move)
    fields = {'codes': old, 'direction': direction, 'frequency': frequency}
    yield w, fields | {'mean_code': mean, 'frozen': frozen}


def moves_of(count, size):
  """Returns moves between random points, so that the weights stay bounded."""
  rng = np.random.default_rng(2)
  points = size * rng.normal(size=(count + 1, *SHAPE))
  return np.diff(points, axis=0)


@pytest.mark.parametrize(
  ('quantize', 'rules', 'size'),
  [(bwn, BWN, 0.4), (uniform, [('.*kernel', UNIFORM), ('.*', None)], 0.15)],
  ids=['bwn', 'uniform'],
)
@pytest.mark.parametrize(
  ('threshold', 'momentum'),
  [
    (0.05, 0.02),
    (0.2, 0.1),
    (lambda updates: 0.4 - 0.002 * updates, 0.1),
    (lambda updates: jnp.where(updates < 50, 1.0, 0.05), 0.02),
  ],
)
def test_freeze_oscillating_matches_simulation(
  x64, quantize, rules, size, threshold, momentum
):
  w, moves = np.asarray(common.weight(1, SHAPE)), moves_of(150, size)
  params = {'layer': {'kernel': jnp.asarray(w), 'bias': jnp.ones(3)}}
  freeze = methods.freeze_oscillating(
    rules, threshold=threshold, momentum=momentum
  )
  update, state = jax.jit(freeze.update), freeze.init(params)
  assert list(state.leaves) == ['layer/kernel']
  at = threshold if callable(threshold) else lambda updates: threshold
  oracle = simulate(quantize, w, moves, lambda t: float(at(t)), momentum)
  bias = 1.0 * jnp.arange(3)
  for t, (move, (expected, fields)) in enumerate(
    zip(moves, oracle, strict=True)
  ):
    new, state = update(
      {'layer': {'kernel': jnp.asarray(move), 'bias': bias}}, state, params
    )
    np.testing.assert_array_equal(new['layer']['bias'], bias)
    free = ~fields['frozen']
    np.testing.assert_array_equal(new['layer']['kernel'][free], move[free])
    params = optax.apply_updates(params, new)
    np.testing.assert_allclose(
      params['layer']['kernel'], expected, rtol=1e-12, atol=1e-12
    )
    leaf = state.leaves['layer/kernel']
    assert int(state.updates) == t + 1
    for name, field in fields.items():
      np.testing.assert_allclose(
        getattr(leaf, name), field, atol=1e-12, err_msg=f'{name} at {t}'
      )
  assert 0.2 < np.mean(fields['frozen']) < 1


def test_freeze_oscillating_counts_only_reversals(x64):
  # The levels are the integers, because the largest weight stays at 3.
  params = {'kernel': jnp.array([[-2.0, 3.0]])}
  freeze = methods.freeze_oscillating(UNIFORM, threshold=1, momentum=0.25)
  state = freeze.init(params)
  for move, frequency in (1, 0), (1, 0), (1, 0), (-1, 0.25), (-1, 0.25 * 0.75):
    moves = {'kernel': jnp.array([[move, 0.0]])}
    moves, state = freeze.update(moves, state, params)
    params = optax.apply_updates(params, moves)
    np.testing.assert_allclose(
      state.leaves['kernel'].frequency, [[frequency, 0]]
    )


@pytest.mark.parametrize('quantizer', [BWN, UNIFORM])
def test_freeze_oscillating_threshold_one_keeps_moves(x64, quantizer):
  params = {'kernel': common.weight(3, SHAPE)}
  freeze = methods.freeze_oscillating(quantizer, threshold=1, momentum=0.5)
  state, update = freeze.init(params), jax.jit(freeze.update)
  for move in moves_of(40, 1.0):
    new, state = update({'kernel': jnp.asarray(move)}, state, params)
    np.testing.assert_array_equal(new['kernel'], move)
    params = optax.apply_updates(params, new)
    assert not np.any(state.leaves['kernel'].frozen)
  assert np.max(state.leaves['kernel'].frequency) > 0.5


@pytest.mark.parametrize('quantizer', [BWN, UNIFORM])
def test_freeze_oscillating_in_training_keeps_weights(quantizer):
  """With the scale max|W|, levels move when the largest weight freezes."""
  freeze = methods.freeze_oscillating(quantizer, threshold=0.1, momentum=0.1)
  options = {'learning_rate': 1.0, 'post_update': freeze}
  train = problem.make(quantizer, estimator=mq_jax.ste(), **options)
  state, seen = problem.start(train), {}
  for batch in problem.batches(40):
    state, _ = train.step(state, batch)
    codes = train.codes(state)
    for path, leaf in state.post_update_state.leaves.items():
      frozen, code = np.array(leaf.frozen), np.array(leaf.codes)
      w = np.asarray(state.params[path.split('/')[0]]['kernel'])
      assert np.all(np.isfinite(w))
      if quantizer is BWN:
        np.testing.assert_array_equal(codes[path][frozen], code[frozen])
      before, old = seen.get(path, (np.zeros_like(frozen), code))
      assert np.all(frozen[before])
      np.testing.assert_array_equal(code[before], old[before])
      seen[path] = (frozen, code)
  assert any(frozen.any() for frozen, _ in seen.values())


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('quantizer', [BWN, UNIFORM])
def test_oscillation_keeps_narrow_dtype(dtype, quantizer):
  params = {'kernel': jnp.zeros(SHAPE, dtype)}
  freeze = methods.freeze_oscillating(quantizer, threshold=0.05, momentum=0.1)
  dampen = methods.dampen(quantizer, strength=0.1)
  state = freeze.init(params)
  for move in moves_of(40, 0.5):
    grads = {'kernel': jnp.asarray(move, dtype)}
    damped, _ = dampen.update(grads, dampen.init(params), params)
    new, state = freeze.update(damped, state, params)
    params = optax.apply_updates(params, new)
    for tree in (damped, new, params):
      assert tree['kernel'].dtype == dtype
      assert np.all(np.isfinite(np.asarray(tree['kernel'], np.float64)))
  assert np.any(state.leaves['kernel'].frozen)


@pytest.mark.parametrize(
  ('name', 'value'), [('momentum', 0), ('momentum', 1), ('threshold', -1)]
)
def test_freeze_oscillating_invalid_options_raise(name, value):
  with pytest.raises(ValueError, match=f'{name}={value}'):
    methods.freeze_oscillating(BWN, **({'threshold': 0.1} | {name: value}))


def test_freeze_oscillating_dorefa_raises():
  freeze = methods.freeze_oscillating(mq_jax.dorefa(), threshold=0.1)
  with pytest.raises(ValueError, match='pre-processes'):
    freeze.init({'kernel': jnp.ones(SHAPE)})


@pytest.mark.parametrize('strength', [0.0, 0.3, 2.0])
@pytest.mark.parametrize(
  ('quantize', 'quantizer'), [(bwn, BWN), (uniform, UNIFORM)]
)
def test_dampen_adds_gradient_of_distance(x64, strength, quantize, quantizer):
  w, g = (common.weight(seed, SHAPE) for seed in (4, 5))
  dampen = methods.dampen([('a', quantizer), ('b', None)], strength=strength)
  params = {'a': w, 'b': w}
  new, _ = dampen.update({'a': g, 'b': g}, dampen.init(params), params)
  np.testing.assert_array_equal(new['b'], g)
  codes, levels = quantize(np.asarray(w))
  high, low = (np.square(w + d - levels[codes]) for d in (1e-5, -1e-5))
  slope = strength * (high - low) / 2e-5
  np.testing.assert_allclose(new['a'] - g, slope, rtol=1e-8, atol=1e-9)


def test_dampen_invalid_strength_raises():
  with pytest.raises(ValueError, match='strength=-1'):
    methods.dampen(BWN, strength=-1)


@pytest.mark.parametrize(
  'transformation',
  [
    methods.dampen(mq_jax.bwn(), strength=0.1),
    methods.freeze_oscillating(mq_jax.bwn(), threshold=0.1),
    methods.scale_by_position(mq_jax.bwn()),
    methods.clip_weights(mq_jax.bwn()),
  ],
)
def test_transformation_without_parameters_raises(transformation):
  params = {'kernel': jnp.ones((2, 2))}
  state = transformation.init(params)
  with pytest.raises(ValueError, match='needs the parameters'):
    transformation.update(params, state)


@pytest.mark.parametrize('quantizer', [methods.lsq(2), methods.ttq()])
def test_freeze_oscillating_quantizer_with_variables_raises(quantizer):
  freeze = methods.freeze_oscillating(quantizer, threshold=0.1)
  with pytest.raises(ValueError, match='kernel: The quantizer has variables'):
    freeze.init({'kernel': jnp.ones((2, 2))})
