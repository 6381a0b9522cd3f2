"""Tests TWN and TTQ against their papers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


def test_twn_matches_hand_computation():
  w = jnp.array([0.1, -0.2, 1.0, -1.5, 0.6, -0.6])  # mean |w| = 2/3
  w_hat = common.values(methods.twn(), w, ())
  # Δ = 0.4667. Four weights exceed Δ; their mean is 3.7/4.
  np.testing.assert_allclose(w_hat, 0.925 * np.array([0, 0, 1, -1, 1, -1]))


def test_twn_weights_at_threshold_are_zero_and_not_in_mean():
  w = jnp.array([1.0, 2.0, 0.0, -1.0])  # Δ = mean |w| = 1
  w_hat = common.values(methods.twn(threshold=1.0), w, ())
  np.testing.assert_array_equal(w_hat, [0, 2, 0, 0])


def test_twn_two_scales_are_means_of_each_side():
  """Tests the idempotent projection of ProxQuant at the threshold 0.46."""
  w = jnp.array([0.1, -0.2, 1.0, -1.5, 0.6, -0.55])
  quantizer = methods.twn(two_scales=True)
  w_hat = common.values(quantizer, w, ())
  np.testing.assert_allclose(w_hat, [0, 0, 0.8, -1.025, 0.8, -1.025])
  again = common.values(quantizer, jnp.asarray(w_hat), ())
  np.testing.assert_allclose(again, w_hat)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_twn_scale_is_best_for_its_codes(seed, scale):
  with jax.enable_x64(True):
    w = common.weight(seed)
    w_hat = common.values(methods.twn(), w, ())
    code = np.sign(w_hat)
    best = np.sum(w * code) / np.sum(code**2)
    np.testing.assert_allclose(w_hat, best * code, rtol=1e-12)
    scaled = common.values(methods.twn(), scale * w, ())
    np.testing.assert_allclose(scaled, scale * w_hat, rtol=1e-9)


def test_ternary_layer_of_zeros_stays_zero():
  for quantizer in (methods.twn(), methods.ttq()):
    w = jnp.zeros((2, 3))
    w_hat = common.values(quantizer, w, quantizer.init(w))
    np.testing.assert_array_equal(w_hat, np.zeros((2, 3)))


def test_ttq_gradients_match_levels():
  """Compares scales with finite differences, weights with {W_n|1|W_p} g_hat."""
  w, g = common.weight(1), common.weight(2)
  scales = np.array([0.8, 1.3])
  quantizer = methods.ttq(threshold=0.3, optimizer=optax.sgd(1.0))
  variables = quantizer.init(w)._replace(scales=jnp.asarray(scales))

  def loss(scales):
    moved = variables._replace(scales=jnp.asarray(scales))
    return np.sum(g * common.values(quantizer, w, moved))

  step = 1e-6
  want = [
    (loss(scales + step * unit) - loss(scales - step * unit)) / (2 * step)
    for unit in np.eye(2)
  ]
  moved = quantizer.update(variables, w, None, g).scales
  np.testing.assert_allclose(scales - moved, want, rtol=1e-6)
  delta = 0.3 * np.max(np.abs(w))
  factor = np.where(w > delta, 0.8, np.where(w < -delta, 1.3, 1.0))
  np.testing.assert_allclose(
    quantizer.straight_through(g, w, variables), factor * g
  )
  levels = np.unique(common.values(quantizer, w, variables))
  assert set(levels) == {-1.3, 0.0, 0.8}


def test_ttq_extreme_thresholds_and_scaled_weights_give_expected_codes():
  w = common.weight(3)
  for quantizer, zeros in (
    (methods.ttq(threshold=0), 0),
    (methods.ttq(threshold=1), w.size),
  ):
    w_hat = common.values(quantizer, w, quantizer.init(w))
    assert np.sum(w_hat == 0) == zeros
  quantizer = methods.ttq(threshold=0.2)
  variables = quantizer.init(w)
  np.testing.assert_array_equal(
    quantizer.codes(7.0 * w, variables)[0], quantizer.codes(w, variables)[0]
  )


def test_ttq_in_training_matches_oracle():
  """Computes two steps of weights and scales from the gradients of the loss."""
  w, g = common.weight(4), common.weight(5)
  states = common.linear(
    methods.ttq(threshold=0.3, optimizer=optax.sgd(0.05)), w, g, 2
  )
  scales = np.ones(2)
  for before, after in itertools.pairwise(states):
    weights = common.kernel(before)
    delta = 0.3 * np.max(np.abs(weights))
    plus, minus = weights > delta, weights < -delta
    factor = np.where(plus, scales[0], np.where(minus, scales[1], 1.0))
    np.testing.assert_allclose(
      common.kernel(after), weights - 0.1 * factor * g, rtol=1e-12
    )
    scales = scales - 0.05 * np.array([np.sum(g[plus]), -np.sum(g[minus])])
    np.testing.assert_allclose(
      after.variables['layer/kernel'].scales, scales, rtol=1e-12
    )


@pytest.mark.parametrize('threshold', [-0.1, float('nan')])
def test_ternary_invalid_thresholds_raise(threshold):
  for make in (methods.twn, methods.ttq):
    with pytest.raises(ValueError, match='threshold='):
      make(threshold=threshold)
  with pytest.raises(ValueError, match=r'threshold=1\.5'):
    methods.ttq(threshold=1.5)
