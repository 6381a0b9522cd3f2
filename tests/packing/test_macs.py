"""Compares `layer_macs` with products counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from mq_jax.models.cpu.depthwise import depthwise_conv_general_dilated
from mq_jax.packing.macs import layer_macs
from tests.packing import small_network


def run_loop(params, x):
  x = x @ jnp.ones((2, 4))
  x, _ = lax.scan(
    lambda x, _: (jnp.tanh(x @ params['square']), None), x, None, length=5
  )
  x, _ = lax.scan(lambda x, w: (x @ w, None), x, params['stacked'])
  return x @ params['square'].T


SQUARE = {'square': jnp.ones((4, 4)), 'stacked': jnp.ones((3, 4, 4))}


def test_layer_macs_loop_counts_every_iteration():
  x = jnp.ones((1, 2))
  expected = {'square': 16 * (5 + 1), 'stacked': 3 * 16}
  assert layer_macs(SQUARE, run_loop, x) == expected
  assert layer_macs(SQUARE, jax.jit(run_loop), x) == expected
  twice = lambda p, x: lax.scan(  # noqa: E731
    lambda s, _: (s + jnp.sum(jax.jit(run_loop)(p, x)), None),
    0.0,
    None,
    length=2,
  )
  assert layer_macs(SQUARE, twice, x) == {p: 2 * n for p, n in expected.items()}


def test_layer_macs_condition_counts_largest_branch():
  weights = {'small': jnp.ones((2, 3)), 'large': jnp.ones((2, 5))}

  def once(params, x):
    return jnp.sum(x @ params['small'])

  def both(params, x):
    return jnp.sum(x @ params['large']) + once(params, x)

  def neither(params, x):
    return jnp.sum(x)

  x, on = jnp.ones((7, 2)), jax.ShapeDtypeStruct((), bool)
  for branches in ((once, both), (both, once)):
    found = layer_macs(
      weights, lambda p, x, on, b=branches: lax.cond(on, *b, p, x), x, on
    )
    assert found == {'small': 7 * 6, 'large': 7 * 10}
  found = layer_macs(
    weights, lambda p, x, on: lax.cond(on, once, neither, p, x), x, on
  )
  assert found == {'small': 7 * 6}
  # A condition in a loop counts once per iteration, also with three branches.
  index = jax.ShapeDtypeStruct((), jnp.int32)

  def thrice(params, x, index):
    return lax.scan(
      lambda s, _: (
        s + lax.switch(index, [neither, both, once], params, x),
        None,
      ),
      0.0,
      None,
      length=3,
    )

  found = layer_macs(weights, thrice, x, index)
  assert found == {'small': 3 * 7 * 6, 'large': 3 * 7 * 10}


def test_layer_macs_condition_with_one_branch_counts_that_branch():
  weights = {'small': jnp.ones((2, 3)), 'large': jnp.ones((2, 5))}
  branches = [lambda p, x, n=name: jnp.sum(x @ p[n]) for name in weights]
  found = layer_macs(
    weights,
    lambda p, x, on: lax.cond(on, *branches, p, x),
    jnp.ones((7, 2)),
    jax.ShapeDtypeStruct((), bool),
  )
  assert found == {'large': 7 * 10}


def test_layer_macs_while_loop_separates_condition_and_body():
  weights = {
    'body': jnp.ones((4, 4)),
    'both': jnp.ones((4, 4)),
    'stop': jnp.ones((4, 1)),
  }

  def apply(params, x):
    return lax.while_loop(
      lambda x: jnp.sum(x @ params['both'] @ params['stop']) < 9,
      lambda x: jnp.tanh(x @ params['body']) @ params['both'],
      x,
    )

  # The body of a loop of unknown length counts once.
  expected = {'body': 3 * 16, 'both': 2 * 3 * 16, 'stop': 3 * 4}
  assert layer_macs(weights, apply, jnp.ones((3, 4))) == expected

  def only_body(params, x):
    return lax.while_loop(
      lambda x: jnp.sum(x) < 9, lambda x: x @ params['body'], x
    )

  def only_condition(params, x):
    return lax.while_loop(
      lambda x: jnp.sum(x @ params['stop']) < 9, lambda x: x + 1, x
    )

  x = jnp.ones((3, 4))
  assert layer_macs(weights, only_body, x) == {'body': 3 * 16}
  assert layer_macs(weights, only_condition, x) == {'stop': 3 * 4}


def test_layer_macs_scaled_weight_counts_as_weight():
  weights = {'w': jnp.ones((4, 5)), 'gain': jnp.ones((4, 1))}
  x, scale = jnp.ones((3, 4)), jnp.ones(())
  for network in (
    lambda p, x, scale: x @ (p['w'] * 2),
    lambda p, x, scale: x @ (scale * p['w']),
    lambda p, x, scale: x @ (-p['w'] / 3 + scale),
    lambda p, x, scale: x @ jax.jit(lambda w: 2 * w)(p['w']),
  ):
    assert layer_macs(weights, network, x, scale) == {'w': 3 * 4 * 5}


def test_layer_macs_weight_with_scales_counts_as_weight():
  shapes = {'w': (4, 5), 'gain': (5,), 'a': (4, 2), 'b': (2, 5), 'norm': (4,)}
  weights = {name: jnp.ones(shape) for name, shape in shapes.items()}
  x, mask = jnp.ones((3, 4)), jnp.ones((4, 5))

  def weight_norm(p, x):
    length = jnp.sqrt(jnp.sum(p['w'] ** 2, axis=0, keepdims=True))
    return x @ (p['w'] / length * p['gain'][None, :])

  def low_rank(p, x):
    return x @ (p['w'] + p['a'] @ p['b'])

  for network in (
    weight_norm,
    jax.jit(weight_norm),
    lambda p, x: x @ (p['w'] * p['gain'][None, :] * mask),
    lambda p, x: x @ (p['w'] - p['w'].mean()),
  ):
    assert layer_macs(weights, network, x) == {'w': 3 * 4 * 5}
  assert layer_macs(weights, low_rank, x) == {
    'w': 3 * 4 * 5,
    'a': 4 * 2 * 5,
    'b': 4 * 2 * 5,
  }

  def normed(p, x):
    # The input of the product depends on x, so it counts for no leaf.
    return (x * p['norm'][None, :]) @ p['w']

  def repeated(p, x):
    state = jnp.zeros((3, 4))

    def step(h, _):
      return h * p['norm'][None, :] @ p['w'][:, :4] + x, None

    return lax.scan(step, state, None, length=2)[0]

  assert layer_macs(weights, normed, x) == {'w': 3 * 4 * 5}
  assert layer_macs(weights, repeated, x) == {'w': 2 * 3 * 4 * 4}


@pytest.mark.parametrize('loop', ['scan', 'fori_loop'])
def test_layer_macs_slice_of_stack_counts_for_stack(loop):
  def apply(params, x):
    if loop == 'fori_loop':
      return lax.fori_loop(0, 3, lambda i, x: x @ params['stacked'][i], x)
    return lax.scan(
      lambda x, i: (x @ params['stacked'][i], None), x, jnp.arange(3)
    )[0]

  weights = {'stacked': jnp.ones((3, 4, 4))}
  assert layer_macs(weights, apply, jnp.ones((2, 4))) == {'stacked': 3 * 2 * 16}


def test_layer_macs_transformed_network_counts_the_same():
  expected = {
    'conv/kernel': small_network.CONV,
    'dense/kernel': small_network.DENSE,
  }
  weights = small_network.params()
  image = jnp.ones((6, 6, 2))

  def halves(params, x):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    return small_network.apply(half, x.astype(jnp.bfloat16))

  for network in (
    small_network.apply,
    jax.jit(small_network.apply),
    jax.checkpoint(small_network.apply),
    halves,
  ):
    assert layer_macs(weights, network, small_network.X) == expected
  assert (
    layer_macs(weights, lambda p, x: small_network.apply(p, x[None]), image)
    == expected
  )
  batched = jax.vmap(
    lambda p, x: small_network.apply(p, x[None])[0], in_axes=(None, 0)
  )
  assert layer_macs(weights, batched, jnp.ones((1, 6, 6, 2))) == expected
  # The count is proportional to the batch size.
  batch = jax.ShapeDtypeStruct((7, 6, 6, 2), jnp.float32)
  assert layer_macs(weights, batched, batch) == {
    p: 7 * n for p, n in expected.items()
  }
  # Packed weights count like unpacked weights.
  assert (
    layer_macs(
      small_network.packed_params().params, small_network.apply, small_network.X
    )
    == expected
  )


@pytest.mark.parametrize(
  ('strides', 'groups', 'kernel', 'expected'),
  [
    ((2, 2), 1, (3, 3, 4, 6), 4 * 4 * 6 * 9 * 4),
    ((1, 1), 2, (3, 3, 2, 6), 8 * 8 * 6 * 9 * 2),
    ((1, 1), 4, (5, 1, 1, 4), 8 * 8 * 4 * 5),
    ((2, 1), 1, (1, 1, 4, 3), 4 * 8 * 3 * 4),
  ],
)
def test_layer_macs_strided_or_grouped_convolution_equals_formula(
  strides, groups, kernel, expected
):
  found = layer_macs(
    {'w': jnp.ones(kernel)},
    lambda p, x: lax.conv_general_dilated(
      x,
      p['w'],
      strides,
      'SAME',
      dimension_numbers=small_network.NHWC,
      feature_group_count=groups,
    ),
    jnp.ones((1, 8, 8, 4)),
  )
  assert found == {'w': expected}


def test_layer_macs_elementwise_product_counts_zero():
  assert (
    layer_macs({'w': jnp.ones(3)}, lambda p, x: p['w'] * x, jnp.ones(3)) == {}
  )
  weights = {'w': jnp.ones((2, 3)), 'v': jnp.ones((3, 2))}
  found = layer_macs(weights, lambda p: p['w'] @ p['v'])
  assert found == {'w': 12, 'v': 12}


@pytest.mark.parametrize(('stride', 'side'), [(1, 8), (2, 4)])
@pytest.mark.parametrize('is_compiled', [False, True])
def test_layer_macs_depthwise_convolution_counts_one_filter_per_channel(
  stride, side, is_compiled
):
  weights = {'w': jnp.ones((3, 3, 1, 6))}

  def network(params, x):
    # On CPU its form has no convolution, but it multiplies as often.
    return depthwise_conv_general_dilated(
      x, params['w'], (stride, stride), 'SAME', feature_group_count=6
    )

  network = jax.jit(network) if is_compiled else network
  found = layer_macs(weights, network, jnp.ones((1, 8, 8, 6)))
  assert found == {'w': side * side * 6 * 3 * 3}
