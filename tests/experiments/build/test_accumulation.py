"""Compares losses and gradients in parts with those of whole batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import accumulation

PARTS, SIZE = 3, 12


def loss_fn(params, batch_stats, batch, rng):
  """Has a closed form; the statistics count the parts that they have seen."""
  error = batch['x'] @ params['w'] - batch['y']
  noise = jax.random.normal(rng, ())
  return jnp.mean(error**2) + noise * params['b'], (
    {'count': batch_stats['count'] * 2 + batch['y'][0]},
    {'error': jnp.mean(error)},
  )


def problem():
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=4)), 'b': jnp.float64(0.5)}
  batch = {
    'x': jnp.asarray(rng.normal(size=(SIZE, 4))),
    'y': jnp.asarray(rng.normal(size=SIZE)),
  }
  return params, {'count': jnp.float64(1.0)}, batch, jax.random.key(1)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_accumulated_gradient_is_mean_over_parts(monkeypatch, backend):
  # The loop of the other backend also runs here.
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  with jax.enable_x64(True):
    params, stats, batch, rng = problem()
    accumulated = accumulation.accumulated(loss_fn, PARTS)
    (loss, (new_stats, metrics)), grads = jax.jit(
      jax.value_and_grad(accumulated, has_aux=True)
    )(params, stats, batch, rng)
    value, _ = jax.jit(accumulated)(params, stats, batch, rng)
    x, y = (np.asarray(batch[name]) for name in 'xy')
    w, b = np.asarray(params['w']), float(params['b'])
    noise = [
      float(jax.random.normal(jax.random.fold_in(rng, i), ()))
      for i in range(PARTS)
    ]
  error = x @ w - y
  expected = (error**2).mean() + b * np.mean(noise)
  np.testing.assert_allclose([loss, value], expected, rtol=1e-13)
  np.testing.assert_allclose(metrics['error'], error.mean(), rtol=1e-12)
  np.testing.assert_allclose(grads['w'], 2 * error @ x / SIZE, rtol=1e-12)
  np.testing.assert_allclose(grads['b'], np.mean(noise), rtol=1e-13)
  # Part i begins with example i.
  np.testing.assert_allclose(
    new_stats['count'], 8 + 4 * y[0] + 2 * y[1] + y[2], rtol=1e-13
  )


def test_accumulated_gradient_is_scaled_by_cotangent():
  params, stats, batch, rng = problem()
  accumulated = accumulation.accumulated(loss_fn, PARTS)
  single, double = (
    jax.grad(lambda p, k=k: k * accumulated(p, stats, batch, rng)[0])(params)
    for k in (1, 2)
  )
  np.testing.assert_allclose(double['w'], 2 * single['w'], rtol=1e-6)


def test_accumulated_one_part_is_the_loss_itself():
  assert accumulation.accumulated(loss_fn, 1) is loss_fn
