"""Gradients and weights of two layers, as inputs of estimators."""

import jax
import numpy as np

LAYER_SHAPES = {'a/kernel': (3, 3, 2, 4), 'b/kernel': (5, 7)}


def leaves(seed, scale=1.0):
  keys = jax.random.split(jax.random.key(seed), len(LAYER_SHAPES))
  return {
    path: scale * jax.random.normal(key, shape)
    for key, (path, shape) in zip(keys, LAYER_SHAPES.items(), strict=True)
  }


def gradients():
  g_hat, w_tilde = leaves(0), leaves(1, 0.5)
  g_ste = {path: 0.3 * g for path, g in g_hat.items()}
  return g_hat, w_tilde, g_ste


def apply(estimator, phi, state=None):
  g_hat, w_tilde, g_ste = gradients()
  state = (
    estimator.init_state(jax.random.key(9), w_tilde) if state is None else state
  )
  return estimator.apply(phi, g_hat, w_tilde, g_ste, state)


def assert_close(ours, theirs, tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=tolerance, atol=tolerance
    ),
    ours,
    theirs,
  )
