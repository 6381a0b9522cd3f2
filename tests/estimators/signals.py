"""Gradients and weights of two layers, as inputs of estimators."""

import jax
import numpy as np

import mq_jax

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


def signals(**changes):
  g_hat, w_tilde, g_ste = gradients()
  return mq_jax.Signals(g_hat, g_ste, w_tilde)._replace(**changes)


def apply(estimator, phi, state=None, **changes):
  read = signals(**changes)
  state = (
    estimator.init_state(jax.random.key(9), read.w_tilde)
    if state is None
    else state
  )
  return estimator.apply(phi, read, state)


def assert_close(ours, theirs, tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=tolerance, atol=tolerance
    ),
    ours,
    theirs,
  )
