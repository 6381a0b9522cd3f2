"""Tests MD-tanh and BayesBiNN against the equations of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.quantizers import at_start, forward_weight
from tests.methods import common


def beta(updates):
  return 1.5 * 1.25**updates


QUANTIZERS = {
  'md_tanh': lambda: methods.md_tanh(beta),
  'md_tanh_chain': lambda: methods.md_tanh(beta, mirror=False),
  'bayes_binn': methods.bayes_binn,
}


def sign(x):
  return np.where(np.asarray(x) >= 0, 1.0, -1.0)


def after(quantizer, w, updates):
  """Returns the variables after a number of updates."""
  variables = quantizer.init(w)
  for _ in range(updates):
    variables = quantizer.update(variables, w, w, w)
  return variables


@pytest.mark.parametrize('updates', [0, 1, 5])
@pytest.mark.parametrize('mirror', [True, False])
def test_md_tanh_matches_oracle(x64, updates, mirror):
  w, g = common.weight(1, (5, 7)), common.weight(2, (5, 7))
  quantizer = methods.md_tanh(beta, mirror=mirror)
  variables = after(quantizer, w, updates)
  (count,) = jax.tree.leaves(variables)
  assert (int(count), count.dtype) == (updates, jnp.int32)
  x, b = np.asarray(w), beta(updates)
  np.testing.assert_allclose(
    quantizer.relaxed(w, variables), np.tanh(b * x), rtol=1e-13
  )
  np.testing.assert_array_equal(quantizer.preprocess(w, variables), w)
  np.testing.assert_array_equal(quantizer.codes(w, variables)[1], [-1, 1])
  w_hat = common.values(quantizer, w, variables)
  np.testing.assert_array_equal(w_hat, sign(w))
  g_ste = quantizer.straight_through(g, w, variables)
  slope = 1.0 if mirror else b * (1 - np.tanh(b * x) ** 2)
  np.testing.assert_allclose(g_ste, g * slope, rtol=1e-11, atol=1e-13)
  if not mirror:
    high, low = (np.tanh(b * (x + d)) for d in (1e-6, -1e-6))
    exact = np.asarray(g) * (high - low) / 2e-6
    np.testing.assert_allclose(g_ste, exact, rtol=1e-6, atol=1e-9)


def noise(quantizer, weights, variables, temperature=1.0):
  """Returns δ = artanh(w) τ − λ of each weight."""
  w = np.asarray(quantizer.relaxed(weights, variables))
  return np.ravel(np.arctanh(w) * temperature - np.asarray(weights))


@pytest.mark.parametrize('temperature', [1.0, 0.6, 3.0])
def test_bayes_binn_noise_is_half_logistic(x64, temperature):
  w = common.weight(3, (400, 250))
  quantizer = methods.bayes_binn(temperature=temperature)
  delta = noise(quantizer, w, quantizer.init(w), temperature)
  assert abs(np.mean(delta)) < 0.01
  assert np.std(delta) == pytest.approx(np.pi / (2 * np.sqrt(3)), rel=0.01)
  p = np.array([0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
  # Five standard deviations of the share of 1e5 samples below a quantile.
  quantiles = np.log(p / (1 - p)) / 2
  share = np.mean(delta[:, None] < quantiles, axis=0)
  assert np.all(np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / delta.size))
  assert abs(np.corrcoef(delta, np.ravel(w))[0, 1]) < 0.016
  assert abs(np.corrcoef(delta[1:], delta[:-1])[0, 1]) < 0.016


def test_bayes_binn_noise_is_fresh_for_each_update_layer_seed_and_trial(x64):
  quantizer, w = methods.bayes_binn(), common.weight(4, (100, 100))
  variables = quantizer.init(w)
  first = noise(quantizer, w, variables)
  np.testing.assert_array_equal(first, noise(quantizer, w, variables))
  others = [noise(quantizer, w, after(quantizer, w, count)) for count in (1, 2)]
  seeded = methods.bayes_binn(seed=1)
  others.append(noise(seeded, w, seeded.init(w)))
  for other in (common.weight(5, w.shape), 2 * w):
    others.append(noise(quantizer, other, quantizer.init(other)))
  # Trials that start from equal weights differ in their gradients.
  trial = quantizer.update(quantizer.init(w), w, w, 2 * w)
  others.append(noise(quantizer, w, trial))
  samples = np.corrcoef([first, *others])
  # The standard deviation of each correlation is 0.01.
  assert np.max(np.abs(samples - np.eye(len(samples)))) < 0.05


@pytest.mark.parametrize('axes', [None, 0])
def test_bayes_binn_layers_of_constant_size_have_different_noise(axes):
  """Tests λ = ±10, the first weights of the authors."""
  w = 10.0 * jnp.asarray(sign(common.weight(5, (2, 400))), jnp.float32)
  one = methods.bayes_binn()
  keys = [one.init(w[0]), one.init(w[1])]
  if axes is not None:
    mapped = mq_jax.per(one, axes=axes).init(w)
    keys = [jax.tree.map(lambda x, i=i: x[i], mapped) for i in (0, 1)]
  assert np.any(keys[0].key != keys[1].key)


@pytest.mark.parametrize('temperature', [1.0, 0.5])
@pytest.mark.parametrize('stability', [1e-10, 0.01])
def test_bayes_binn_matches_oracle(x64, temperature, stability):
  w, g = common.weight(6, (8, 9)), common.weight(7, (8, 9))
  quantizer = methods.bayes_binn(temperature=temperature, stability=stability)
  theta, variables = at_start(quantizer, w)
  np.testing.assert_array_equal(theta, w)
  np.testing.assert_array_equal(quantizer.preprocess(w, variables), w)
  np.testing.assert_array_equal(quantizer.codes(w, variables)[1], [-1, 1])
  w_hat = common.values(quantizer, w, variables)
  np.testing.assert_array_equal(w_hat, sign(w))
  sample = np.asarray(quantizer.relaxed(w, variables))
  assert np.all(np.abs(sample) < 1)
  slope = temperature * (1 - np.tanh(np.asarray(w)) ** 2 + stability)
  expected = np.asarray(g) * (1 - sample**2 + stability) / slope
  np.testing.assert_allclose(
    quantizer.straight_through(g, w, variables), expected, rtol=1e-8
  )


def test_bayes_binn_loss_and_gradient_use_same_sample(x64):
  """Tests one step of training on the loss Σ g w²/2, whose gradient is g w."""
  w, c = common.weight(8), common.weight(9)
  quantizer = methods.bayes_binn(temperature=0.7)

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(batch * params['w'] ** 2) / 2, (model_state, {})

  ste = mq_jax.ste()
  train = mq_jax.make_train_step(loss_fn, quantizer, ste, learning_rate=0.1)
  state = train.init(jax.random.key(0), {'w': w}, {}, c)
  for _ in range(3):
    old = np.asarray(state.params['w'])
    sample = np.asarray(train.forward_params(state)['w'])
    g_hat = np.asarray(c) * sample
    ratio = (1 - sample**2 + 1e-10) / (1 - np.tanh(old) ** 2 + 1e-10) / 0.7
    state, _ = train.step(state, c)
    np.testing.assert_allclose(
      state.params['w'], old - 0.1 * g_hat * ratio, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize('size', [3.0, 5.0, 10.0])
def test_bayes_binn_float32_factor_of_gradient_has_its_distribution(size):
  """For large λ it is about e^(−2δ) = (1 − u)/u; the authors start at ±10."""
  w, quantizer = jnp.full(10_000, size), methods.bayes_binn()
  factor = quantizer.straight_through(jnp.ones_like(w), w, quantizer.init(w))
  for bound in (2, 10):
    assert np.mean(factor > bound) == pytest.approx(1 / (1 + bound), abs=0.03)


def test_bayes_binn_invalid_temperature_raises():
  with pytest.raises(ValueError, match='temperature='):
    methods.bayes_binn(temperature=0)


@pytest.mark.parametrize('name', QUANTIZERS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('size', [0.0, 1.0, 9.0, 50.0])
def test_soft_sign_narrow_dtype_is_kept_and_finite(name, dtype, size):
  quantizer = QUANTIZERS[name]()
  w = jnp.asarray(size * common.weight(11), dtype)
  variables = after(quantizer, w, 2)
  relaxed = forward_weight(quantizer, w, variables)
  g_ste = quantizer.straight_through(jnp.ones_like(w), w, variables)
  w_hat = common.values(quantizer, w, variables)
  for array in (relaxed, g_ste, w_hat):
    assert array.dtype == dtype
    assert np.all(np.isfinite(np.asarray(array, np.float64)))
  np.testing.assert_array_equal(w_hat.astype(np.float64), sign(w))


@pytest.mark.parametrize('name', QUANTIZERS)
def test_soft_sign_training_stays_finite(name):
  common.check_training_stays_finite(QUANTIZERS[name]())
