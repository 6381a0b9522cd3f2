"""Tests that programs for other runtimes have no branches for platforms."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.deploy.any_platform import with_default_forms
from mq_jax.models.cpu import depthwise


def network(x, w):
  # The call inside a jitted function is found, and other calls stay.
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
  return {'y': jax.nn.relu6(y), 'sum': jnp.sum(y, axis=0)}


def test_with_default_forms_uses_convolution_of_lax():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)
  before = str(jax.make_jaxpr(network)(x, w))
  after = str(jax.make_jaxpr(with_default_forms(network))(x, w))
  assert 'platform_index' in before
  assert 'platform_index' not in after
  assert after.count('conv_general_dilated[') == 1
  assert 'cond[' in after
  found = with_default_forms(network)(x, w)
  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(
      ours, theirs, rtol=1e-5, atol=1e-5
    ),
    found,
    network(x, w),
  )


def test_with_default_forms_other_program_is_unchanged():
  def plain(x):
    return jax.nn.softmax(jax.jit(jnp.tanh)(x))

  x = jnp.ones((2, 3))
  assert str(jax.make_jaxpr(with_default_forms(plain))(x)) == str(
    jax.make_jaxpr(plain)(x)
  )
