"""Tests proximal steps, clips and relaxations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


@pytest.mark.parametrize('strength', [0.0, 0.3, 2.0])
def test_prox_minimises_objective(strength):
  """Minimises ½ (z − w)² + strength · R(z) over a grid of z."""
  z = np.linspace(-3, 3, 600_001)
  to_nearest = np.minimum(np.abs(z - 1), np.abs(z + 1))
  for w in (-2.1, -0.95, -0.4, 0.2, 0.8, 1.0, 2.5):
    level = 1.0 if w >= 0 else -1.0
    arguments = [jnp.asarray(x) for x in (w, level, strength)]
    for prox, penalty in (
      (methods.prox_l1, to_nearest),
      (methods.prox_l2, to_nearest**2 / 2),
    ):
      best = z[np.argmin((z - w) ** 2 / 2 + strength * penalty)]
      assert float(prox(*arguments)) == pytest.approx(best, abs=1e-5)


def test_prox_matches_closed_forms():
  w = common.weight(1)
  level = jnp.where(w >= 0, 1.0, -1.0)
  still = methods.prox_l1(w, level, jnp.array(0.0))
  np.testing.assert_allclose(still, w, rtol=1e-13)
  near = jnp.clip(w, -1, 1)
  reached = methods.prox_l1(near, level, jnp.array(1.0))
  np.testing.assert_allclose(reached, level, rtol=1e-15)
  away = np.abs(methods.prox_l1(w, level, jnp.array(0.3)) - level)
  np.testing.assert_allclose(
    away, np.maximum(np.abs(w - level) - 0.3, 0), atol=1e-15
  )
  for prox in (methods.prox_l1, methods.prox_l2):
    assert np.all(np.sign(prox(w, level, jnp.array(0.7))) == np.sign(w))
    np.testing.assert_array_equal(prox(level, level, jnp.array(0.7)), level)


def test_proximal_step_in_training_matches_oracle():
  """Tests that each step moves W, pulls W towards its level and clips W."""
  w, g = common.weight(2), common.weight(3)
  quantizer = mq_jax.unquantized(methods.binary())

  def strength(updates):
    return 0.05 * updates

  post_update = optax.chain(
    methods.proximal_step(quantizer, strength), methods.clip_weights(quantizer)
  )
  states = common.linear(quantizer, w, g, 3, post_update=post_update)
  for t, (before, after) in enumerate(itertools.pairwise(states)):
    moved = common.kernel(before) - 0.1 * g
    level = np.where(moved >= 0, 1.0, -1.0)
    away = moved - level
    pulled = level + np.sign(away) * np.maximum(np.abs(away) - 0.05 * t, 0)
    np.testing.assert_allclose(
      common.kernel(after), np.clip(pulled, -1, 1), rtol=1e-12, atol=1e-14
    )


def test_proximal_step_large_strength_reaches_levels():
  w, g = common.weight(4), 0.01 * common.weight(5)
  quantizer = mq_jax.unquantized(methods.binary())
  post_update = methods.proximal_step(quantizer, lambda updates: 2.0)
  last = common.linear(
    quantizer, jnp.clip(w, -1, 1), g, 2, post_update=post_update
  )[-1]
  assert set(np.unique(common.kernel(last))) == {-1.0, 1.0}


def test_proximal_step_leaf_without_quantizer_is_unchanged():
  rules = [('a', methods.binary()), ('b', None)]
  params = {'a': jnp.array([0.5]), 'b': jnp.array([0.5])}
  moves = {'a': jnp.array([3.0]), 'b': jnp.array([3.0])}
  for transformation, a in (
    (methods.clip_weights(rules, bound=2.0), 1.5),
    (methods.proximal_step(rules, lambda updates: 1.0), 2.0),
  ):
    new, _ = transformation.update(moves, transformation.init(params), params)
    assert (float(new['a'][0]), float(new['b'][0])) == (a, 3.0)


@pytest.mark.parametrize(
  'dtype', [jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16]
)
@pytest.mark.parametrize('jit', [False, True])
def test_clip_weights_updated_weight_never_exceeds_bound(dtype, jit):
  rng = np.random.default_rng(8)
  bound = 0.3
  clip = methods.clip_weights([('w', methods.binary())], bound=bound)
  w = {'w': jnp.asarray(rng.normal(size=4000), dtype)}
  moves = {'w': jnp.asarray(rng.normal(size=4000), dtype)}

  def moved(moves, w):
    return optax.apply_updates(w, clip.update(moves, clip.init(w), w)[0])

  new = (jax.jit(moved) if jit else moved)(moves, w)['w']
  bound = float(jnp.asarray(bound, dtype))
  size = np.abs(np.asarray(new, np.float64))
  assert np.max(size) <= bound
  clipped = np.abs(np.asarray(w['w'] + moves['w'], np.float64)) > bound
  ulp = float(jnp.finfo(dtype).eps)
  # The clipped weights are within the rounding error of one move.
  assert np.all(size[clipped] >= bound - 8 * ulp)


def test_binary_relax_moves_from_weights_to_levels():
  w, g = common.weight(6), common.weight(7)
  strengths = jnp.array([0.0, 1.0, 3.0, jnp.inf])
  quantizer = methods.binary_relax(
    mq_jax.bwn(), lambda updates: strengths[updates]
  )
  variables = quantizer.init(w)
  level = common.values(mq_jax.bwn(), w, ())
  for share in (0.0, 0.5, 0.75, 1.0):
    np.testing.assert_allclose(
      quantizer.relaxed(w, variables), w + share * (level - w), rtol=1e-14
    )
    np.testing.assert_array_equal(common.values(quantizer, w, variables), level)
    variables = quantizer.update(variables, w, None, g)


def test_binary_relax_in_training_moves_weights():
  """Tests that the gradient at the relaxed weights moves the weights."""
  w = common.weight(8)
  quantizer = methods.binary_relax(mq_jax.bwn(), lambda updates: 1.0)

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(params['w'] ** 2) / 2, (model_state, {})

  train = mq_jax.make_train_step(
    loss_fn, quantizer, mq_jax.ste(), learning_rate=0.1
  )
  state = train.init(jax.random.key(0), {'w': w}, {}, ())
  state, _ = train.step(state, ())
  level = np.mean(np.abs(w)) * np.where(w >= 0, 1, -1)
  np.testing.assert_allclose(
    state.params['w'], w - 0.1 * (w + level) / 2, rtol=1e-12
  )


def test_clip_weights_invalid_bound_raises():
  with pytest.raises(ValueError, match='bound=0'):
    methods.clip_weights(methods.binary(), bound=0)
