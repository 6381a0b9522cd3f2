"""Tests LQ-Nets: nearest levels, and the error after each round of QEM."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


@pytest.mark.parametrize('bits', [1, 2, 3])
def test_lq_nets_rounds_to_nearest_level_of_channel(bits):
  w = common.weight(1)
  quantizer = methods.lq_nets(bits)
  v = jnp.asarray(np.random.default_rng(2).uniform(0.2, 1, (4, bits)))
  w_hat = common.values(quantizer, w, v)
  for channel in range(4):
    levels = [
      np.dot(b, v[channel]) for b in itertools.product((-1, 1), repeat=bits)
    ]
    for x, x_hat in zip(
      w[..., channel].ravel(), w_hat[..., channel].ravel(), strict=True
    ):
      nearest = min(levels, key=lambda level: abs(x - level))
      assert x_hat == pytest.approx(nearest)


def test_lq_nets_start_matches_hand_computation():
  w = jnp.zeros((3, 3, 16, 8))
  v = methods.lq_nets(2).init(w)
  unit = 0.6745 * np.sqrt(2 / (9 * 8)) / 2
  np.testing.assert_allclose(v, np.tile([unit, 2 * unit], (8, 1)))


@pytest.mark.parametrize('bits', [1, 2, 3])
def test_lq_nets_round_never_increases_error(bits):
  w = common.weight(3, (3, 3, 5, 4))
  quantizer = methods.lq_nets(bits, decay=0.0)
  v, errors = quantizer.init(w), []
  for _ in range(8):
    errors.append(np.sum((w - common.values(quantizer, w, v)) ** 2))
    v = quantizer.update(v, w, None, None)
  assert errors == sorted(errors, reverse=True)
  assert errors[-1] < errors[0]


def test_lq_nets_one_bit_levels_move_to_channel_means():
  w = common.weight(4, (3, 3, 50, 4))
  quantizer = methods.lq_nets(1, decay=0.0)
  v = quantizer.update(quantizer.init(w), w, None, None)
  mean = np.mean(np.abs(w), axis=(0, 1, 2))
  np.testing.assert_allclose(
    v[:, 0], mean, rtol=1e-6
  )  # δ causes the difference
  half = methods.lq_nets(1, decay=0.9)
  start = half.init(w)
  moved = half.update(start, w, None, None)
  np.testing.assert_allclose(moved, 0.9 * start + 0.1 * v)


def test_lq_nets_ridge_pulls_towards_last_levels():
  """With one weight per channel: min (|w| − v)² + δ (v − v₀)², δ = 1e-4."""
  w = jnp.array([[0.3, -2.0]])
  quantizer = methods.lq_nets(1, decay=0.0)
  start = jnp.array([[5.0], [7.0]])
  v = quantizer.update(start, w, None, None)
  best = (np.array([0.3, 2.0]) + 1e-4 * start[:, 0]) / (1 + 1e-4)
  np.testing.assert_allclose(v[:, 0], best, rtol=1e-12)


def test_lq_nets_two_bits_give_four_levels_per_channel():
  w = common.weight(5, (3, 3, 50, 4))
  quantizer = methods.lq_nets(2)
  w_hat = common.values(quantizer, w, quantizer.init(w))
  for channel in range(4):
    assert len(np.unique(w_hat[..., channel])) == 4


@pytest.mark.parametrize('bits', [0, 5, True])
def test_lq_nets_invalid_bits_raise(bits):
  with pytest.raises(ValueError, match='bits='):
    methods.lq_nets(bits)
