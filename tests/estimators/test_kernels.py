"""Tests `kernel_wise` against two plain layers per kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax


def leaves(seed, size=3):
  keys = jax.random.split(jax.random.key(seed), 2)
  return {
    'a': jax.random.normal(keys[0], (size, size, 2, 4)),
    'b': jax.random.normal(keys[1], (size, size, 1, 3)),
  }


@pytest.mark.parametrize('size', [2, 3])
@pytest.mark.parametrize('init', ['random', 'identity'])
def test_kernel_wise_equals_two_layers_per_kernel(x64, size, init):
  estimator = mq_jax.kernel_wise(size=size, hidden=5, init=init)
  w, g_hat, g_ste = (leaves(seed, size) for seed in range(3))
  phi = estimator.init(jax.random.key(3), w)
  phi = jax.tree.map(lambda x: x + 0.1, phi)
  first, last = jax.tree.map(np.asarray, phi)
  assert first['kernel'].shape == (size**2, 5)
  assert last['kernel'].shape == (5, size**2)
  g_tilde, _ = estimator.apply(phi, mq_jax.Signals(g_hat, g_ste, w), ())
  g = g_ste if init == 'identity' else g_hat
  for path, leaf in w.items():
    for i in range(leaf.shape[2]):
      for o in range(leaf.shape[3]):
        kernel = np.asarray(leaf[:, :, i, o]).ravel()
        factors = kernel @ first['kernel'] @ last['kernel']
        factors = factors + last.get('bias', 0)
        np.testing.assert_allclose(
          g_tilde[path][:, :, i, o],
          g[path][:, :, i, o] * factors.reshape(size, size),
          rtol=1e-10,
        )


def test_kernel_wise_identity_init_equals_straight_through_rule():
  estimator = mq_jax.kernel_wise(init='identity')
  w, g_hat, g_ste = (leaves(seed) for seed in range(3))
  phi = estimator.init(jax.random.key(0), w)
  g_tilde, _ = estimator.apply(phi, mq_jax.Signals(g_hat, g_ste, w), ())
  jax.tree.map(np.testing.assert_array_equal, g_tilde, g_ste)


@pytest.mark.parametrize('shape', [(1, 1, 3, 4), (3, 5, 3, 4), (9, 9), (3, 3)])
def test_kernel_wise_wrong_kernel_size_raises(shape):
  odd = {'shortcut/kernel': jnp.ones(shape)}
  message = r'shortcut/kernel has shape .*\(3, 3, in, out\) only.*None\)'
  with pytest.raises(ValueError, match=message):
    mq_jax.kernel_wise(size=3).init(jax.random.key(0), leaves(0) | odd)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: mq_jax.kernel_wise(size=0), 'size=0'),
    (lambda: mq_jax.kernel_wise(hidden=1.5), 'hidden=1.5'),
    (lambda: mq_jax.kernel_wise(init='ones'), "init='ones'"),
  ],
)
def test_kernel_wise_bad_argument_raises(make, message):
  with pytest.raises(ValueError, match=message):
    make()
