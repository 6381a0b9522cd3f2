"""Tests PSGD: the grid and the scaled gradient."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_uniform_rounds_to_nearest_level(bits):
  w = common.weight(1)
  step = np.max(np.abs(w)) / (2 ** (bits - 1) - 1)
  w_hat = common.values(methods.uniform(bits), w, ())
  np.testing.assert_allclose(w_hat, np.floor(w / step + 0.5) * step)
  assert np.max(np.abs(w_hat - w)) <= step / 2 * (1 + 1e-12)
  again = common.values(methods.uniform(bits), jnp.asarray(w_hat), ())
  np.testing.assert_allclose(again, w_hat, rtol=1e-12)
  zeros = common.values(methods.uniform(bits), jnp.zeros((2, 2)), ())
  assert not np.any(zeros)


def scale(w, **options):
  """Returns the scale of each weight, by scaling a gradient of ones."""
  transformation = methods.scale_by_position(methods.uniform(3), **options)
  params = {'w': w}
  ones = {'w': jnp.ones_like(w)}
  return np.asarray(
    transformation.update(ones, transformation.init(params), params)[0]['w']
  )


def test_scale_by_position_matches_formula():
  w = common.weight(2)
  error = np.abs(w - common.values(methods.uniform(3), w, ()))
  plain = {'normalised': False}
  np.testing.assert_allclose(
    scale(w, epsilon=0.01, strength=150.0, **plain), 150 * (error + 0.01)
  )
  normalised = scale(w, epsilon=0.01)
  np.testing.assert_allclose(normalised, (error + 0.01) / (error.max() + 0.01))
  assert normalised.max() == 1
  assert normalised.min() > 0
  pruned = scale(w, epsilon=0.0, target=jnp.zeros_like, **plain)
  np.testing.assert_allclose(pruned, np.abs(w))


def test_scale_by_position_weights_on_targets_do_not_move():
  w = common.weight(3)
  on_grid = jnp.asarray(common.values(methods.uniform(3), w, ()))
  still = scale(on_grid, epsilon=0.0, normalised=False)
  np.testing.assert_allclose(still, 0, atol=1e-15)
  # Without ε, a normalised layer on its targets gives 0, not 0/0.
  assert np.all(np.isfinite(scale(jnp.zeros((2, 2)), epsilon=0.0)))


def test_scale_by_position_target_zero_equals_descent_on_root():
  """Compares with descent on y, where w = sign(y) y²/4, to second order."""
  w, g, eta = np.array([0.9, -0.4, 1.7]), np.array([1.0, 2.0, -0.5]), 1e-4
  y = np.sign(w) * 2 * np.sqrt(np.abs(w))
  moved_y = y - eta * g * np.abs(y) / 2  # dw/dy = |y| / 2
  s = scale(
    jnp.asarray(w)[None], epsilon=0.0, normalised=False, target=jnp.zeros_like
  )
  moved = w - eta * s[0] * g
  np.testing.assert_allclose(
    moved, np.sign(moved_y) * moved_y**2 / 4, atol=10 * eta**2
  )


def test_scale_by_position_in_training_matches_oracle():
  w, g = common.weight(4), common.weight(5)
  quantizer = mq_jax.unquantized(methods.uniform(4))
  refine = methods.scale_by_position(quantizer, epsilon=0.1)
  states = common.linear(quantizer, w, g, 2, refine=refine)
  for before, after in itertools.pairwise(states):
    w = common.kernel(before)
    error = np.abs(w - common.values(methods.uniform(4), w, ())) + 0.1
    np.testing.assert_allclose(
      common.kernel(after), w - 0.1 * error / error.max() * g, rtol=1e-12
    )


def test_scale_by_position_invalid_arguments_raise():
  with pytest.raises(ValueError, match='bits=1'):
    methods.uniform(1)
  with pytest.raises(ValueError, match='strength=0'):
    methods.scale_by_position(methods.uniform(2), strength=0)
