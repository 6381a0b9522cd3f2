"""Tests that programs for other runtimes have no platforms and no loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments.deploy.inline import Layers, inlined, needs_inlining
from mq_jax.models.cpu import depthwise


def network(x, w):
  @jax.jit
  def inner(x):
    return depthwise.depthwise_conv_general_dilated(
      x,
      w,
      (2, 2),
      ((1, 1), (1, 1)),
      feature_group_count=w.shape[-1],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  y = inner(x)
  y = lax.cond(jnp.sum(y) > 0, lambda y: 2 * y, lambda y: -y, y)
  return {'sum': jnp.sum(y, axis=0), 'y': jax.nn.relu6(y)}


def test_inlined_uses_convolution_of_lax():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)
  before = str(jax.make_jaxpr(network)(x, w))
  after = str(jax.make_jaxpr(inlined(network, x, w))(x, w))
  assert needs_inlining(network, x, w)
  assert 'platform_index' in before
  assert 'platform_index' not in after
  assert after.count('conv_general_dilated[') == 1
  assert 'cond[' in after
  wanted = network(x, w)
  for ours, theirs in zip(
    inlined(network, x, w)(x, w), (wanted['sum'], wanted['y']), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_needs_inlining_of_other_program():
  def plain(x):
    return jax.nn.softmax(jax.jit(jnp.tanh)(x))

  assert not needs_inlining(plain, jnp.ones((2, 3)))


def stacked(weights, x, unused):
  @jax.jit
  def step(carry, layer):
    w, shift = layer
    return jnp.tanh(carry @ w + shift[None] + x), jnp.sum(carry)

  jnp.exp(unused)
  first, sums = lax.scan(step, x, weights)
  second, _ = lax.scan(step, x, weights, reverse=True)
  flags = jnp.where(first > 0, second > 0, first < -0.5)
  return first, sums, second, flags


@pytest.mark.parametrize('as_layers', [False, True])
def test_inlined_has_no_loop(as_layers):
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=(3, 4, 4)), jnp.float32)
  shift = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
  x = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
  run = inlined(stacked, (w, shift), x, x)

  def of_kernels(shift, x, *kernels):
    return run(
      Layers(kernels) if as_layers else jnp.stack(kernels), shift, x, x
    )

  program = str(jax.make_jaxpr(of_kernels)(shift, x, *w))
  for gone in ('scan[', 'exp ', 'jit[', 'bool[2,4] = select_n'):
    assert gone not in program
  if as_layers:  # Each is multiplied as it was given, without being stacked.
    before = program.partition('tanh')[0]
    assert 'stack[' not in before
    assert 'concatenate[' not in before
  for ours, theirs in zip(
    of_kernels(shift, x, *w), stacked((w, shift), x, x), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_inlined_stacks_layers_for_other_operations():
  w = jnp.arange(6.0).reshape(3, 2)
  run = inlined(lambda w: (2 * w, w), w)
  doubled, same = run(Layers(w))
  np.testing.assert_array_equal(doubled, 2 * w)
  np.testing.assert_array_equal(same, w)
