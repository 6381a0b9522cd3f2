"""Tests the depthwise convolution and its gradients against XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mq_jax.models.cpu import depthwise

NHWC = ('NHWC', 'HWIO', 'NHWC')
TORCH = ((1, 1), (1, 1))


def arrays(*shapes):
  rng = np.random.default_rng(5)
  return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def convolve(function, stride=1, padding=TORCH, groups=4, **other):
  return lambda x, w: function(
    x,
    w,
    (stride,) * 2,
    padding,
    dimension_numbers=NHWC,
    feature_group_count=groups,
    **other,
  )


def assert_equals_lax(x, w, **options):
  found, pullback = jax.vjp(
    convolve(depthwise.depthwise_conv_general_dilated, **options), x, w
  )
  expected, expected_pullback = jax.vjp(
    convolve(lax.conv_general_dilated, **options), x, w
  )
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
  (g,) = arrays(found.shape)
  for ours, theirs in zip(pullback(g), expected_pullback(g), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
  ('sides', 'size', 'stride', 'padding'),
  [
    ((6, 5), 3, 1, TORCH),
    ((6, 5), 3, 1, 'SAME'),
    ((6, 5), 3, 2, TORCH),
    ((6, 5), 3, 2, 'SAME'),
    ((1, 2), 3, 2, TORCH),
    ((7, 8), 5, 3, ((2, 1), (0, 2))),
  ],
)
def test_depthwise_matches_lax(x64, sides, size, stride, padding):
  x, w = arrays((3, *sides, 4), (size, size, 1, 4))
  assert_equals_lax(x, w, stride=stride, padding=padding)


@pytest.mark.parametrize(
  ('features', 'groups', 'other'),
  [(8, 4, {}), (4, 2, {}), (4, 4, {'rhs_dilation': (2, 2)})],
)
def test_depthwise_other_arguments_use_lax(x64, features, groups, other):
  x, w = arrays((2, 6, 5, 4), (3, 3, 4 // groups, features))
  assert_equals_lax(x, w, groups=groups, **other)


def test_depthwise_bfloat16_sums_in_float32():
  wide = arrays((2, 6, 6, 4), (3, 3, 1, 4))
  x, w = (array.astype(jnp.bfloat16) for array in wide)

  def run(function, x, w):
    y, pullback = jax.vjp(convolve(function), x, w)
    return y, *pullback(jnp.ones_like(y))

  found = run(depthwise.depthwise_conv_general_dilated, x, w)
  exact = run(
    lax.conv_general_dilated, x.astype(jnp.float32), w.astype(jnp.float32)
  )
  for ours, theirs in zip(found, exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    # One rounding of the exact sum.
    np.testing.assert_allclose(
      ours.astype(jnp.float32), theirs, rtol=2**-8, atol=1e-6
    )


def test_depthwise_maps_over_filters_and_devices(x64):
  x, w = arrays((2, 5, 5, 4), (3, 3, 3, 1, 4))

  def loss(x, w):
    convolution = convolve(depthwise.depthwise_conv_general_dilated, stride=2)
    return jnp.sum(jnp.square(convolution(x, w)))

  gradient = jax.grad(loss, argnums=1)
  expected = [gradient(x, filters) for filters in w]
  mapped = jax.vmap(gradient, in_axes=(None, 0))(x, w)
  np.testing.assert_allclose(mapped, expected, rtol=1e-11)

  def of_replica(w, x):
    # The gradient of a replica is averaged later, as in `make_train_step`.
    w = lax.pcast(w, 'data', to='varying')
    return lax.psum(gradient(x, w), 'data')

  mesh = Mesh(jax.devices()[:1], ('data',))
  specs = PartitionSpec(), PartitionSpec('data')
  shared = jax.shard_map(
    of_replica, mesh=mesh, in_specs=specs, out_specs=specs[0]
  )
  np.testing.assert_allclose(jax.jit(shared)(w[0], x), expected[0], rtol=1e-11)


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='is for CPUs')
def test_depthwise_on_cpu_runs_no_convolution_of_xla():
  x, w = arrays((2, 6, 6, 4), (3, 3, 1, 4))

  def loss(x, w):
    convolution = convolve(depthwise.depthwise_conv_general_dilated)
    return jnp.sum(jnp.square(convolution(x, w)))

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  assert 'stablehlo.convolution' not in step.lower(x, w).as_text()
