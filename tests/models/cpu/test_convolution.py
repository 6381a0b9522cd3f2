"""Tests the filter gradient against XLA and an explicit sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mq_jax.models import resnet20
from mq_jax.models.cpu import convolution

pytestmark = pytest.mark.optimized

SAME = ((1, 1), (1, 1))
NHWC = ('NHWC', 'HWIO', 'NHWC')


def arrays(*shapes):
  rng = np.random.default_rng(5)
  return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize('batch', [1, 2, 5])
def test_filter_gradient_equals_explicit_sum(x64, batch):
  x, g = arrays((batch, 4, 3, 2), (batch, 4, 3, 5))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = np.zeros((3, 3, 2, 5))
  for i in range(3):
    for j in range(3):
      for h in range(4):
        for v in range(3):
          expected[i, j] += padded[:, h + i, v + j].T @ np.asarray(g[:, h, v])
  np.testing.assert_allclose(
    convolution.filter_gradient(x, g), expected, rtol=1e-12, atol=1e-12
  )


@pytest.mark.parametrize(
  ('channels', 'features', 'size', 'stride', 'pad', 'other'),
  [
    (32, 32, 3, 1, 1, {}),
    (64, 32, 3, 1, 1, {}),
    (32, 64, 3, 2, 1, {}),
    (32, 32, 3, 1, 0, {}),
    (32, 32, 1, 1, 0, {}),
    (16, 32, 3, 1, 1, {}),
    (32, 32, 3, 1, 1, {'rhs_dilation': (2, 2)}),
    (32, 32, 3, 1, 1, {'feature_group_count': 4}),
  ],
)
def test_conv_general_dilated_matches_lax(
  x64, channels, features, size, stride, pad, other
):
  groups = other.get('feature_group_count', 1)
  x, w = arrays((4, 6, 5, channels), (size, size, channels // groups, features))

  def result(convolve, x, w):
    return convolve(
      x, w, (stride,) * 2, ((pad, pad),) * 2, dimension_numbers=NHWC, **other
    )

  custom = jax.jit(lambda *a: result(convolution.conv_general_dilated, *a))
  reference = jax.jit(lambda *a: result(lax.conv_general_dilated, *a))
  y, pullback = jax.vjp(custom, x, w)
  expected, expected_pullback = jax.vjp(reference, x, w)
  np.testing.assert_array_equal(y, expected)
  (g,) = arrays(y.shape)
  for found, wanted in zip(pullback(g), expected_pullback(g), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


def test_conv_general_dilated_bfloat16_keeps_dtype():
  x, w = (a.astype(jnp.bfloat16) for a in arrays((2, 4, 4, 32), (3, 3, 32, 32)))
  dx, dw = jax.grad(
    lambda x, w: jnp.sum(
      convolution.conv_general_dilated(
        x, w, (1, 1), SAME, dimension_numbers=NHWC
      ).astype(jnp.float32)
    ),
    argnums=(0, 1),
  )(x, w)
  assert dx.dtype == dw.dtype == jnp.bfloat16


@pytest.mark.slow
def test_resnet20_wide_stages_avoid_xla_filter_gradient():
  """Searches for convolutions with a 3x3 result: filter gradients of XLA."""
  net = resnet20()
  x = jnp.zeros((4, 32, 32, 3))
  variables = net.init(jax.random.key(0), x, train=False)

  def loss(params):
    logits, _ = net.apply(
      {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
    )
    return jnp.sum(logits)

  hlo = jax.jit(jax.grad(loss)).lower(variables['params']).as_text()
  wide = [
    line
    for line in hlo.splitlines()
    if 'stablehlo.convolution' in line
    and ('-> tensor<3x3x32x32x' in line or '-> tensor<3x3x64x64x' in line)
  ]
  narrow = [
    line
    for line in hlo.splitlines()
    if 'stablehlo.convolution' in line and '-> tensor<3x3x16x16x' in line
  ]
  assert len(wide) == (0 if jax.default_backend() == 'cpu' else 10)
  assert len(narrow) == 6
