"""Tests that the convolution that counts bits is exact to the last bit."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mq_jax
from benchmarks import bit_networks
from mq_jax import activations, models
from mq_jax.activations import Activation
from mq_jax.models.cpu import bit_convolution

pytestmark = pytest.mark.optimized

SAME = ((1, 1), (1, 1))
SIGN = Activation(activations.sign, signed=True, binary=True)
NHWC = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
# Kernel, stride, padding.
KINDS = [
  ((3, 3), (1, 1), SAME),
  ((3, 3), (2, 2), SAME),
  ((1, 1), (2, 2), ((0, 0), (0, 0))),
  ((1, 1), (1, 1), ((0, 0), (0, 0))),
  ((2, 5), (1, 3), ((0, 1), (4, 2))),
]


def signs(rng, *shape):
  return rng.choice([-1, 1], shape)


def oracle(x, w, strides=(1, 1), padding=SAME):
  """Computes the convolution in integers; skips taps outside the image."""
  sizes = [
    (side + sum(pads) - size) // stride + 1
    for side, size, stride, pads in zip(
      x.shape[1:3], w.shape[:2], strides, padding, strict=True
    )
  ]
  y = np.zeros((x.shape[0], *sizes, w.shape[-1]), np.int64)
  for row, column in np.ndindex(*sizes):
    for i, j in np.ndindex(*w.shape[:2]):
      r = row * strides[0] + i - padding[0][0]
      c = column * strides[1] + j - padding[1][0]
      if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
        y[:, row, column] += x[:, r, c] @ w[i, j]
  return y


def to_floats(*arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


@functools.partial(jax.jit, static_argnums=(2, 3))
def convolve_by_counting(x, w, strides=(1, 1), padding=SAME):
  return bit_convolution.bit_conv_general_dilated(
    x, w, strides, padding, **NHWC
  )


@functools.partial(jax.jit, static_argnums=(2, 3))
def plain(x, w, strides=(1, 1), padding=SAME):
  return lax.conv_general_dilated(x, w, strides, padding, **NHWC)


# 96 channels: 27 words, in two chunks of 14.
@pytest.mark.parametrize(
  ('channels', 'size'),
  [
    (1, (2, 3)),
    (3, (5, 7)),
    (16, (1, 1)),
    (16, (7, 4)),
    (33, (3, 5)),
    (64, (5, 1)),
    (96, (3, 3)),
  ],
)
@pytest.mark.parametrize(('kernel', 'strides', 'padding'), KINDS)
def test_bit_convolution_matches_integer_oracle(
  channels, size, kernel, strides, padding
):
  rng = np.random.default_rng(channels)
  x, w = signs(rng, 2, *size, channels), signs(rng, *kernel, channels, 5)
  expected = oracle(x, w, strides, padding)
  y = convolve_by_counting(*to_floats(x, w), strides, padding)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, expected)
  # Compares bytes, because −0 equals 0 by value.
  assert np.asarray(y).tobytes() == expected.astype(np.float32).tobytes()


# bfloat16 cannot represent all sums up to 2304.
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(('channels', 'side'), [(16, 32), (64, 8), (256, 4)])
def test_bit_convolution_matches_float_convolution_bytes(channels, side, dtype):
  rng = np.random.default_rng(side)
  x = jnp.asarray(signs(rng, 2, side, side, channels), dtype)
  w = jnp.asarray(signs(rng, 3, 3, channels, channels), dtype)
  w = jnp.abs(w) if dtype == jnp.bfloat16 else w
  y, expected = np.asarray(convolve_by_counting(x, w)), np.asarray(plain(x, w))
  assert y.dtype == expected.dtype == dtype
  assert y.tobytes() == expected.tobytes()


def test_bit_convolution_of_equal_signs_counts_taps_within_image():
  x, w = jnp.ones((1, 3, 3, 33)), jnp.ones((3, 3, 33, 1))
  taps = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
  for sign in (1, -1):
    y = convolve_by_counting(x, sign * w)
    np.testing.assert_array_equal(y[0, ..., 0], sign * 33 * taps)


def test_pack_matches_hand_computed_bits():
  x = np.full((2, 35), -1.0, np.float32)
  x[0, [0, 2]] = 1  # 1 + 4
  x[1, [15, 16, 31, 32, 34]] = 1
  words = bit_convolution.pack(jnp.asarray(x))
  assert words.dtype == jnp.uint32
  expected = [[5, 0], [2**15 + 2**16 + 2**31, 1 + 4]]
  np.testing.assert_array_equal(words, np.array(expected, np.uint32))
  ones = bit_convolution.pack(jnp.ones((1, 16)))
  np.testing.assert_array_equal(ones, np.array([[2**16 - 1]], np.uint32))
  filters = bit_convolution.pack_filters(
    jnp.asarray(x.T).reshape(1, 1, 35, 2), 4, 4, padding=((0, 0), (0, 0))
  )
  assert filters.words.dtype == jnp.uint32
  np.testing.assert_array_equal(
    filters.words, np.array(expected, np.uint32).T.reshape(1, 1, 2, 2)
  )


def test_bit_convolution_gradients_match_float_convolution():
  rng = np.random.default_rng(2)
  x, w = to_floats(signs(rng, 2, 5, 4, 33), signs(rng, 3, 3, 33, 6))
  y, pullback = jax.vjp(lambda x, w: convolve_by_counting(x, w, (2, 2)), x, w)
  expected, expected_pullback = jax.vjp(lambda x, w: plain(x, w, (2, 2)), x, w)
  np.testing.assert_array_equal(y, expected)
  g = jnp.asarray(rng.integers(-4, 5, y.shape), jnp.float32)
  for found, wanted in zip(pullback(g), expected_pullback(g), strict=True):
    np.testing.assert_array_equal(found, wanted)
    assert np.any(wanted)


@pytest.mark.parametrize('other', [{'rhs_dilation': (2, 2)}, {'groups': 2}])
def test_bit_convolution_unsupported_options_use_lax(other):
  groups = other.get('groups', 1)
  other = {'feature_group_count': 2} if groups > 1 else other
  rng = np.random.default_rng(3)
  x, w = signs(rng, 2, 5, 6, 4), signs(rng, 3, 3, 4 // groups, 6)
  both = [
    convolve(*to_floats(x, w), (1, 1), SAME, **NHWC, **other)
    for convolve in (
      bit_convolution.bit_conv_general_dilated,
      jax.lax.conv_general_dilated,
    )
  ]
  np.testing.assert_array_equal(*both)


def problem(name, batch=3):
  images = bit_networks.exact_images(batch, side=16)
  net = getattr(models, name)(activation=SIGN)
  return net, bit_networks.exact_params(net, images), images


def logits(net, params, images):
  return net.apply({'params': mq_jax.unpack(params)}, images, train=False)


def popcounts(text):
  return text.count('stablehlo.popcnt')


# All sums are exact in float32, so the bytes of the logits are equal.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'convolutions', 'floats'),
  [('resnet8', 6, 3), ('vgg_small', 5, 1)],
)
def test_networks_that_count_bits_keep_logits(name, convolutions, floats):
  net, params, images = problem(name)
  counting = net.clone(count_bits=True)
  expected = np.asarray(jax.jit(logits, static_argnums=0)(net, params, images))
  assert np.ptp(expected) > 0.1
  packed = mq_jax.pack(params, bit_networks.RULES, quantized=True).params
  for kernels in (params, packed):
    program = jax.jit(logits, static_argnums=0).lower(counting, kernels, images)
    y = program.compile()(kernels, images)
    assert np.asarray(y).tobytes() == expected.tobytes()
  if jax.default_backend() == 'cpu':
    # The first convolution and the shortcuts stay in float.
    assert program.as_text().count('stablehlo.convolution') == floats
    assert popcounts(program.as_text()) >= 2 * convolutions


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'constants'), [('resnet8', False), ('vgg_small', True)]
)
def test_networks_exported_count_bits(name, constants):
  net, params, images = problem(name, batch=5)
  counting = net.clone(count_bits=True)
  packed = mq_jax.pack(params, bit_networks.RULES, quantized=True)
  like = jax.ShapeDtypeStruct(
    (*jax.export.symbolic_shape('b'), *images.shape[1:]), images.dtype
  )
  if constants:
    call, before = functools.partial(logits, counting, packed), ()
  else:
    call, before = functools.partial(logits, counting), (params,)
  exported = jax.export.export(jax.jit(call), platforms=['cpu', 'cuda'])(
    *before, like
  )
  # The program contains bit counts for CPU and convolutions for CUDA.
  text = exported.mlir_module()
  assert popcounts(text) > 0
  assert text.count('stablehlo.convolution') > 5
  again = jax.export.deserialize(exported.serialize())
  for batch in (1, 2, 5):
    y = again.call(*before, images[:batch])
    expected = jax.jit(logits, static_argnums=0)(net, params, images[:batch])
    assert np.asarray(y).tobytes() == np.asarray(expected).tobytes()


def test_bit_convolution_constant_filters_are_packed_at_compile_time():
  _, w = to_floats(0, signs(np.random.default_rng(4), 3, 3, 64, 64))
  x = jnp.ones((2, 8, 8, 64))
  program = (
    jax.jit(lambda x: convolve_by_counting(x, w)).lower(x).compile().as_text()
  )
  # If the filters are arguments, the program packs them.
  within = convolve_by_counting.lower(x, w).compile().as_text()
  if jax.default_backend() == 'cpu':
    assert '[3,3,64,64]' in within
    assert '[3,3,64,64]' not in program


@pytest.mark.parametrize('name', ['resnet8', 'vgg_small', 'labnet'])
def test_networks_count_bits_without_binary_activation_raises(name):
  make = getattr(models, name)
  images = jnp.ones((2, 16, 16, 3))

  def init(net, train=False):
    init = functools.partial(net.init, train=train)
    jax.eval_shape(init, jax.random.key(0), images)

  for activation in (None, Activation(activations.dorefa_activation(1))):
    net = make(activation=activation).clone(count_bits=True)
    with pytest.raises(ValueError, match=r'-1 and \+1 only\. .*binary=True'):
      init(net)
  net = make(activation=SIGN)
  counting = net.clone(count_bits=True)
  init(counting)
  with pytest.raises(ValueError, match=r'Train net\.clone\(count_bits=False'):
    init(counting, train=True)
  init(net, train=True)
