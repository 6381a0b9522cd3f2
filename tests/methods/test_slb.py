"""Tests SLB: mixtures of levels, exact gradients, and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


def constant(value):
  return lambda updates: jnp.asarray(value)


def theta_of(bits, seed=1):
  return common.weight(seed, (3, 4, 2**bits))


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_slb_mixture_and_gradient_match_finite_differences(bits):
  theta, g = theta_of(bits), common.weight(2, (3, 4))
  levels = np.linspace(-1, 1, 2**bits)

  def mixture(theta):
    share = np.exp(1.7 * theta)
    return (share / share.sum(axis=-1, keepdims=True)) @ levels

  quantizer = methods.slb(bits, constant(1.7))
  variables = quantizer.init(common.weight(3, (3, 4)))
  np.testing.assert_allclose(
    quantizer.relaxed(theta, variables), mixture(np.asarray(theta))
  )
  gradient = quantizer.straight_through(g, theta, variables)
  point, step = np.asarray(theta), 1e-6
  for index in [(0, 0, 0), (1, 2, 2**bits - 1), (2, 3, 1)]:
    unit = np.zeros(theta.shape)
    unit[index] = step
    change = mixture(point + unit) - mixture(point - unit)
    slope = float(np.sum(g * change)) / (2 * step)
    assert float(gradient[index]) == pytest.approx(slope, rel=1e-6)
  # Adding a constant to all entries of a weight does not change the mixture.
  np.testing.assert_allclose(np.sum(gradient, axis=-1), 0, atol=1e-12)


def test_slb_one_bit_mixture_equals_tanh():
  theta = theta_of(1)
  quantizer = methods.slb(1, constant(0.6))
  np.testing.assert_allclose(
    quantizer.relaxed(theta, jnp.zeros((), jnp.int32)),
    np.tanh(0.6 * (theta[..., 1] - theta[..., 0]) / 2),
    rtol=1e-12,
  )


@pytest.mark.parametrize('sharp', [3.0, 30.0])
def test_slb_distance_of_mixture_from_level_is_bounded(sharp):
  """Tests |W_c − W_q| ≤ 2 (m − 1) exp(−T · gap)."""
  theta = theta_of(2)
  quantizer = methods.slb(2, constant(sharp))
  w_hat = common.values(quantizer, theta, ())
  ordered = np.sort(theta, axis=-1)
  gap = ordered[..., -1] - ordered[..., -2]
  error = np.abs(quantizer.relaxed(theta, 0) - w_hat)
  assert np.all(error <= 2 * 3 * np.exp(-sharp * gap) + 1e-12)
  # A scale and a shift of all entries do not change the level.
  np.testing.assert_array_equal(
    w_hat, common.values(quantizer, 5 * theta + 3.0, ())
  )


def test_slb_infinite_temperature_gives_levels_and_no_gradient():
  theta = theta_of(2)
  quantizer = methods.slb(2, constant(jnp.inf))
  np.testing.assert_array_equal(
    quantizer.relaxed(theta, 0), common.values(quantizer, theta, ())
  )
  assert not np.any(quantizer.straight_through(theta[..., 0], theta, 0))
  assert np.all(quantizer.saturated(theta, 0))


def test_slb_init_mixture_is_near_pretrained_weights():
  w = common.weight(4)
  quantizer = methods.slb(2, constant(100.0), sharpness=10.0)
  theta = quantizer.parametrized(w)
  assert theta.shape == (*w.shape, 4)
  relative = np.asarray(w) / np.max(np.abs(w))
  levels = np.linspace(-1, 1, 4)
  nearest = levels[np.argmin(np.abs(relative[..., None] - levels), axis=-1)]
  np.testing.assert_allclose(common.values(quantizer, theta, ()), nearest)


def test_slb_in_training_equals_gradient_descent_on_theta():
  """Compares with jax.grad of the mixture's loss, at increasing temperature."""
  w, g = common.weight(5), common.weight(6)
  quantizer = methods.slb(2, lambda updates: 1.0 + updates)
  states = common.linear(quantizer, w, g, 3)
  theta = quantizer.parametrized(w)
  for step, state in enumerate(states):
    np.testing.assert_allclose(common.kernel(state), theta, rtol=1e-9)

    def loss(theta, sharp=1.0 + step):
      return jnp.sum(
        g * (jax.nn.softmax(sharp * theta) @ jnp.linspace(-1.0, 1.0, 4))
      )

    theta = theta - 0.1 * jax.grad(loss)(theta)


@pytest.mark.parametrize('kind', ['exp', 'linear', 'cos'])
def test_temperature_schedule_increases_from_start_to_end(kind):
  schedule = methods.temperature_schedule(
    kind, start=0.01, end=10.0, total=100, window=(0.2, 0.6)
  )
  at = np.array([float(schedule(jnp.asarray(t))) for t in range(101)])
  np.testing.assert_allclose(at[:21], 0.01, rtol=1e-9)
  np.testing.assert_allclose(at[60:], 10.0, rtol=1e-9)
  assert np.all(np.diff(at[20:61]) > 0)
  middle = {'exp': np.sqrt(0.1), 'linear': 5.005, 'cos': 5.005}[kind]
  assert at[40] == pytest.approx(middle, rel=1e-6)


def test_temperature_schedule_cycles_restart():
  schedule = methods.temperature_schedule(
    'linear', start=1.0, end=5.0, total=90, cycles=3
  )
  at = [float(schedule(jnp.asarray(t))) for t in (0, 15, 29, 30, 45, 60, 90)]
  late = 1 + 4 * 29 / 30
  np.testing.assert_allclose(at, [1, 3, late, 1, 3, 1, 5], atol=1e-9)


@pytest.mark.parametrize(
  'values',
  [
    ('sin', 1, 2, 10),
    ('exp', 0, 2, 10),
    ('exp', 3, 2, 10),
    ('exp', 1, 2, 0),
    ('exp', 1, 2, 10, (0.5, 0.5)),
    ('exp', 1, 2, 10, (0, 1), 0),
  ],
)
def test_temperature_schedule_invalid_arguments_raise(values):
  kind, *numbers = values
  names = ('start', 'end', 'total', 'window', 'cycles')
  with pytest.raises(ValueError, match='='):
    methods.temperature_schedule(
      kind, **dict(zip(names, numbers, strict=False))
    )


def test_slb_mean_of_levels_has_full_precision():
  quantizer = methods.slb(2, constant(1.0))
  theta = jnp.zeros((3, 2, 4))
  steps = jax.make_jaxpr(quantizer.relaxed)(theta, jnp.zeros((), jnp.int32))
  products = [line for line in str(steps).splitlines() if 'dot_general' in line]
  assert products
  assert 'HIGHEST' in str(steps)


def test_slb_invalid_arguments_raise():
  with pytest.raises(ValueError, match='bits=5'):
    methods.slb(5, constant(1.0))
  with pytest.raises(ValueError, match='sharpness=0'):
    methods.slb(1, constant(1.0), sharpness=0)


def test_temperature_schedule_exp_by_epoch_multiplies_once_per_epoch():
  schedule = methods.temperature_schedule(
    'exp', start=1.0, end=16.0, total=80, window=(0.25, 0.75), every=10
  )
  values = np.array([float(schedule(jnp.asarray(step))) for step in range(80)])
  by_epoch = values.reshape(8, 10)
  np.testing.assert_array_equal(by_epoch, by_epoch[:, :1] + 0 * by_epoch)
  np.testing.assert_allclose(
    by_epoch[:, 0], [1, 1, 1, 2, 4, 8, 16, 16], rtol=1e-6
  )


def test_temperature_schedule_freeze_ends_at_infinity():
  kept, frozen = (
    methods.temperature_schedule(
      'linear', start=1.0, end=5.0, total=10, window=(0.2, 0.6), freeze=freeze
    )
    for freeze in (False, True)
  )
  for step in range(10):
    value = float(frozen(jnp.asarray(step)))
    assert value == (np.inf if step >= 6 else float(kept(jnp.asarray(step))))
