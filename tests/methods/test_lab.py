"""Tests LAB against brute force and the closed forms of its paper."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


def test_lab_has_lowest_error_of_all_signs():
  """Minimises Σ d (α b − w)² over α and all 2ⁿ sign vectors b."""
  w = np.array([0.3, -1.2, 0.7, -0.1])
  v = np.array([4.0, 0.25, 1.0, 9.0])
  d = np.sqrt(v) + 1e-8
  best = np.inf, None
  for signs in itertools.product((-1.0, 1.0), repeat=4):
    b = np.array(signs)
    alpha = max(np.sum(d * b * w) / np.sum(d), 0)
    best = min(best, (np.sum(d * (alpha * b - w) ** 2), tuple(alpha * b)))
  w_hat = common.values(methods.lab(), jnp.asarray(w), jnp.asarray(v))
  np.testing.assert_allclose(w_hat, best[1], rtol=1e-12)


def test_lab_constant_curvature_equals_bwn_at_any_scale():
  w = common.weight(1)
  bwn = common.values(mq_jax.bwn(), w, ())
  quantizer = methods.lab()
  for v in (quantizer.init(w), jnp.full(w.shape, 7.0)):
    np.testing.assert_allclose(common.values(quantizer, w, v), bwn, rtol=1e-12)
  v = common.weight(2) ** 2 + 1
  np.testing.assert_allclose(
    common.values(quantizer, w, v),
    common.values(quantizer, w, 1e4 * v),
    rtol=1e-6,  # because LAB adds 1e-8 to the root
  )
  size = np.abs(common.values(quantizer, w, v))
  assert size.min() == size.max()
  assert np.abs(w).min() <= size.max() <= np.abs(w).max()


def test_lab_curvature_is_moving_average_of_squared_gradients():
  w, g = common.weight(3), common.weight(4)
  states = common.linear(methods.lab(decay=0.75), w, g, 3)
  v = np.zeros(w.shape)
  for before, after in itertools.pairwise(states):
    np.testing.assert_allclose(before.variables['layer/kernel'], v)
    v = 0.75 * v + 0.25 * g**2
    np.testing.assert_allclose(after.variables['layer/kernel'], v)
    np.testing.assert_allclose(
      common.kernel(after), common.kernel(before) - 0.1 * g
    )


def test_lab_invalid_decay_raises():
  with pytest.raises(ValueError, match=r'decay=1\.0'):
    methods.lab(decay=1.0)
