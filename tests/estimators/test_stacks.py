"""Tests that the cheap evaluation of a stack equals the plain network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax.estimators import coordinates, stacks
from tests.estimators import signals

STACKS = [
  (layers, activation, bias, last_bias)
  for layers in (1, 2, 3)
  for activation, bias, last_bias in [
    (None, False, False),
    (None, True, True),
    (None, False, True),
    ('relu', False, False),
    ('relu', False, True),
    ('relu', True, True),
    ('tanh', False, False),
    ('tanh', True, True),
  ]
]


@pytest.mark.parametrize(('layers', 'activation', 'bias', 'last_bias'), STACKS)
def test_stacks_apply_equals_plain_network_in_value_and_gradient(
  x64, layers, activation, bias, last_bias
):
  activation = stacks.checked_activation(7, layers, activation)
  phi = stacks.init(jax.random.key(3), 7, layers, bias, last_bias, jnp.float64)
  x, cotangent = signals.leaves(0), signals.leaves(1)
  x['b/kernel'] = x['b/kernel'].at[0, 0].set(0.0)

  def plain(phi):
    return {
      path: stacks.evaluate(phi, activation, leaf.ravel()).reshape(leaf.shape)
      for path, leaf in x.items()
    }

  ours, back = jax.vjp(lambda phi: stacks.apply(phi, activation, x), phi)
  theirs, plain_back = jax.vjp(plain, phi)
  signals.assert_close(ours, theirs, 1e-12)
  signals.assert_close(back(cotangent)[0], plain_back(cotangent)[0], 1e-12)


def flops(function, *arguments):
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.cost_analysis()['flops']


@pytest.mark.parametrize('activation', [None, 'relu'])
def test_stacks_apply_linear_or_relu_costs_nothing_per_hidden_unit(activation):
  x = {'kernel': jnp.ones((100, 100))}

  def cost(hidden, activation):
    phi = stacks.init(jax.random.key(0), hidden, 2, False, False, jnp.float32)
    return flops(lambda phi: stacks.apply(phi, activation, x), phi)

  # The cost per coordinate is small at any width. Only tanh needs the network.
  assert cost(300, activation) < 8 * 10_000
  assert cost(300, 'tanh') > 300 * 10_000 / coordinates.BLOCK


def test_stacks_init_is_uniform_within_fan_in_bound():
  phi = stacks.init(jax.random.key(0), 400, 3, True, True, jnp.float32)
  assert [layer['kernel'].shape for layer in phi] == [
    (1, 400),
    (400, 400),
    (400, 1),
  ]
  for layer, fan_in in zip(phi, (1, 400, 400), strict=True):
    for leaf in layer.values():
      bound = fan_in**-0.5
      assert jnp.abs(leaf).max() <= bound
      if leaf.size >= 400:
        # The standard deviation of U(-b, b) is b / sqrt(3).
        np.testing.assert_allclose(leaf.std(), bound / 3**0.5, rtol=0.1)
