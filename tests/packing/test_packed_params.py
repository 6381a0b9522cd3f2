"""Tests packed weights: the documented layout, and Ŵ restored bit for bit."""

import json
import math

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import mq_jax
from mq_jax import methods, models
from mq_jax.packing import packed_array
from mq_jax.packing.levels import exact_multiples
from mq_jax.packing.packed_array import PackedArray
from mq_jax.selection import named_leaves
from tests import problem

# The codes of 135 weights fill whole bytes only at 8 bits.
SHAPE = (3, 3, 3, 5)
RISING = methods.temperature_schedule('exp', start=0.5, end=8.0, total=10)
QUANTIZERS = {
  **{f'dorefa{bits}': mq_jax.dorefa(bits) for bits in range(1, 9)},
  'dorefa_original': mq_jax.dorefa(original=True),
  'bwn': mq_jax.bwn(),
  'bwn_channels': mq_jax.per(mq_jax.bwn(), axes=-1),
  'bwn_axis0': mq_jax.per(mq_jax.bwn(), axes=0),
  'twn': methods.twn(),
  'twn_two_scales': methods.twn(two_scales=True),
  'ttq': methods.ttq(threshold=0.3, optimizer=optax.sgd(0.1)),
  'lsq2': methods.lsq(2, optimizer=optax.sgd(0.1)),
  'lq_nets1': methods.lq_nets(1),
  'lq_nets2': methods.lq_nets(2, decay=0.5),
  'lab': methods.lab(decay=0.5),
  'slb3': methods.slb(3, RISING),
  'inq5': methods.inq(5),
  'uniform2': methods.uniform(2),
  'aciq2': mq_jax.per(methods.aciq(2), axes=-1),
  'aciq4': methods.aciq(4, prior='normal'),
  'aciq8': mq_jax.per(methods.aciq(8, prior='range', corrected=False), axes=-1),
  'twn_groups': mq_jax.per(methods.twn(), axes=-1, group_size=1),
  'lsq_groups': mq_jax.per(
    methods.lsq(3, optimizer=optax.sgd(0.1)), axes=0, group_size=3, group_axis=1
  ),
  'clipped_uniform3': methods.clipped_uniform(3),
  'scaled_levels': methods.scaled_levels((-4, -2, -1, 1, 2, 4)),
  'binary': methods.binary(),
  'binary_relax': methods.binary_relax(mq_jax.bwn(), lambda step: 2.0),
}
RULES = [(f'{name}/kernel', q) for name, q in QUANTIZERS.items()]


def loss_fn(params, model_state, batch, rng):
  x, y = batch
  errors = [
    jnp.mean((jnp.tanh(x @ layer['kernel'].reshape(-1, 5)) - y) ** 2)
    for layer in params.values()
    if 'kernel' in layer
  ]
  return sum(errors) + jnp.sum(params['norm']['scale']), (
    {'count': model_state['count'] + 1},
    {},
  )


@pytest.fixture(scope='module')
def trained():
  """Trains a network that has one layer per method for three steps."""
  keys = jax.random.split(jax.random.key(0), len(QUANTIZERS))
  params = {
    name: {'kernel': 0.4 * jax.random.normal(key, SHAPE)}
    for name, key in zip(QUANTIZERS, keys, strict=True)
  } | {'norm': {'scale': jnp.ones(3)}}
  train = mq_jax.make_train_step(
    loss_fn,
    RULES,
    mq_jax.ste(),
    refine=optax.scale_by_adam(),
    learning_rate=0.03,
  )
  batch = (
    jax.random.normal(jax.random.key(1), (16, 27)),
    jax.random.normal(jax.random.key(2), (16, 5)),
  )
  state = train.init(jax.random.key(3), params, {'count': jnp.zeros(())}, batch)
  for _ in range(3):
    state, _ = train.step(state, batch)
  packed = train.pack(state)
  return train, state, packed, jax.device_get(train.quantized(state))


def view_bits(array):
  array = np.ascontiguousarray(array)
  return array.view(f'u{array.itemsize}')


def assert_same(found, expected):
  """Compares paths, dtypes and bits; −0 differs from 0."""
  found, expected = named_leaves(found), named_leaves(expected)
  assert found.keys() == expected.keys()
  for path, leaf in found.items():
    ours, theirs = np.asarray(leaf), np.asarray(expected[path])
    assert ours.dtype == theirs.dtype, path
    assert ours.shape == theirs.shape, path
    np.testing.assert_array_equal(view_bits(ours), view_bits(theirs), path)


def assert_same_packed(found, expected):
  assert_same(found.data, expected.data)
  assert_same(found.levels, expected.levels)
  for name in ('shape', 'bits', 'grid', 'quantizer'):
    assert getattr(found, name) == getattr(expected, name), name


def decode_codes(array):
  """Decodes the codes from the documented layout alone."""
  stream = ''.join(f'{byte:08b}'[::-1] for byte in np.asarray(array.data))
  size = math.prod(array.shape)
  assert len(stream) == 8 * -(-size * array.bits // 8)
  pieces = [stream[i * array.bits : (i + 1) * array.bits] for i in range(size)]
  assert set(stream[size * array.bits :]) <= {'0'}
  return np.array([int(p[::-1], 2) for p in pieces]).reshape(array.shape)


def decode(array):
  """Decodes Ŵ from the documented layout alone."""
  codes, levels = decode_codes(array), np.asarray(array.levels)
  if array.grid is not None:
    first, step = array.grid
    multiples = (first + step * codes).astype(levels.dtype)
    return levels.reshape(levels.shape[:-1] or ()) * multiples
  if levels.ndim == 1:
    return levels[codes]
  levels = np.broadcast_to(levels, (*array.shape, levels.shape[-1]))
  return np.take_along_axis(levels, codes[..., None], axis=-1)[..., 0]


def assert_fewest_bits(array):
  """Checks that the array uses the fewest possible bits."""
  codes = decode_codes(array)
  assert 1 <= array.bits <= 8
  assert array.bits == max(1, int(codes.max()).bit_length())
  if array.grid is not None:
    assert codes.min() == 0
    assert array.grid[1] >= 1
    assert array.levels.shape[-1] == 1
    if array.levels.ndim == 1 and codes.max():
      # No coarser grid contains all values.
      assert np.gcd.reduce(codes, axis=None) == 1
  else:
    n = array.levels.shape[-1]
    # Some channel uses the last level.
    assert codes.max() == n - 1
    assert np.all(np.diff(array.levels.astype(np.float64), axis=-1) >= 0)


# The layout.


@pytest.mark.parametrize('bits', range(1, 9))
@pytest.mark.parametrize('shape', [(1,), (7, 3), (5, 13), (3, 3, 2, 4), (64,)])
def test_codes_and_levels_read_little_endian_bit_stream(bits, shape):
  rng = np.random.default_rng(bits)
  size = math.prod(shape)
  codes = rng.integers(0, 2**bits, shape)
  stream = [code >> i & 1 for code in codes.ravel() for i in range(bits)]
  data = np.zeros(-(-size * bits // 8), np.uint8)
  for place, bit in enumerate(stream):
    data[place // 8] |= bit << place % 8
  # The values have no common scale, so they are not on a grid.
  levels = np.sort(rng.normal(size=2**bits)).astype(np.float32)
  array = PackedArray(data, levels, shape, bits, None, 'test')
  (found, table), w_hat = jax.jit(
    lambda: (mq_jax.codes_and_levels(array), packed_array.values(array))
  )()
  assert found.dtype == jnp.uint8
  np.testing.assert_array_equal(found, codes)
  np.testing.assert_array_equal(table, levels)
  assert_same(w_hat, levels[codes])
  if bits == 1:
    np.testing.assert_array_equal(
      data, np.packbits(codes.ravel().astype(bool), bitorder='little')
    )


@pytest.mark.parametrize('number', [2, 3, 4, 5, 9, 17, 33, 65, 129, 200, 256])
def test_pack_uses_fewest_bits(number):
  rng = np.random.default_rng(number)
  levels = np.sort(rng.normal(size=number)).astype(np.float32)
  codes = rng.permutation(np.arange(19 * 23) % number).reshape(19, 23)
  packed = mq_jax.pack(
    {'w': levels[codes]}, mq_jax.dorefa(8), quantized=True
  ).params['w']
  if packed.grid is None:
    np.testing.assert_array_equal(decode_codes(packed), codes)
    assert_same(packed.levels, levels)
    assert packed.bits == math.ceil(math.log2(number))
  else:
    assert number == 2  # two values are on a grid if they are ±α
  assert packed.data.dtype == np.uint8
  assert packed.data.shape == (-(-19 * 23 * packed.bits // 8),)
  assert_fewest_bits(packed)


def test_pack_one_bit_equals_numpy_packbits():
  w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
  packed = mq_jax.pack({'w': w}, mq_jax.bwn()).params['w']
  np.testing.assert_array_equal(
    packed.data, np.packbits(w >= 0, bitorder='little')
  )
  assert (packed.bits, packed.shape, packed.quantizer) == (1, (5, 7), 'bwn')


def test_pack_constant_layer_takes_one_bit():
  for value in (0.0, -0.0, 0.25, -3.0):
    w = np.full((3, 3), value, np.float32)
    packed = mq_jax.pack({'w': w}, methods.twn(), quantized=True)
    assert packed.params['w'].bits == 1
    assert len(packed.params['w'].data) == 2
    assert_same(mq_jax.unpack(packed)['w'], w)
    # A constant weight can also be a latent weight.
    assert mq_jax.pack({'w': w}, methods.twn()).params['w'].bits == 1


def test_packed_array_equality_compares_identity():
  w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
  first, second = (
    mq_jax.pack({'w': w}, mq_jax.bwn()).params['w'] for _ in range(2)
  )
  assert_same_packed(first, second)
  # Comparing arrays would raise, because arrays have no truth value.
  assert first != second
  assert len({first, second, first}) == 2


def test_packed_leaves_returns_leaves_by_path():
  w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
  packed = mq_jax.pack(
    {'b': {'w': w, 'c': w[0]}, 'a': w}, [('a|b/w', mq_jax.bwn())]
  )
  found = packed_array.packed_leaves(packed.params)
  assert list(found) == ['a', 'b/w']
  assert found['b/w'] is packed.params['b']['w']
  assert packed_array.is_packed(found['a'])
  assert not packed_array.is_packed(packed.params['b']['c'])
  codes = packed_array.codes_of(found['a'])
  assert jnp.issubdtype(codes.dtype, jnp.integer)
  np.testing.assert_array_equal(codes, w >= 0)


# Trained networks.


@pytest.mark.parametrize('name', QUANTIZERS)
def test_pack_trained_layer_decodes_to_trained_values(trained, name):
  _, state, packed, w_hat = trained
  array = packed.params[name]['kernel']
  assert isinstance(array, PackedArray)
  assert isinstance(array.data, np.ndarray)
  expected = w_hat[name]['kernel']
  assert np.ptp(expected) > 0
  assert_same(decode(array), expected)
  assert_fewest_bits(array)
  # The table has the same form as in training, and no additional levels.
  levels = jax.eval_shape(
    lambda w, variables: QUANTIZERS[name].codes(
      QUANTIZERS[name].preprocess(w, variables), variables
    )[1],
    state.params[name]['kernel'],
    state.variables[f'{name}/kernel'],
  )
  assert array.levels.ndim == levels.ndim
  assert array.levels.shape[-1] <= levels.shape[-1]


def test_pack_state_keeps_params_model_state_and_versions(trained):
  _, state, packed, w_hat = trained
  assert_same(mq_jax.unpack(packed), w_hat)
  assert_same(packed.params['norm'], jax.device_get(state.params['norm']))
  assert packed.model_state == {'count': 4.0}
  assert set(packed.metadata) == {'mq_jax', 'jax'}
  assert packed.metadata['jax'] == jax.__version__
  assert packed.metadata['mq_jax'] == mq_jax.__version__


@pytest.mark.optimized
def test_unpack_under_jit_equals_trained_weights(trained):
  _, _, packed, w_hat = trained
  assert_same(jax.jit(lambda: mq_jax.unpack(packed))(), w_hat)
  assert_same(jax.jit(mq_jax.unpack)(packed.params), w_hat)
  assert_same(jax.jit(mq_jax.unpack)(jax.device_put(packed.params)), w_hat)


@pytest.mark.optimized
def test_codes_and_levels_dequantize_to_trained_values(trained):
  _, _, packed, w_hat = trained
  arrays = {p: layer for p, layer in packed.params.items() if p != 'norm'}
  unpacked = jax.jit(
    lambda params: {
      name: mq_jax.codes_and_levels(layer['kernel'])
      for name, layer in params.items()
    }
  )(arrays)
  for name, (codes, levels) in unpacked.items():
    array = arrays[name]['kernel']
    assert codes.dtype == jnp.uint8
    np.testing.assert_array_equal(codes, decode_codes(array))
    assert levels.ndim == array.levels.ndim
    assert_same(mq_jax.dequantize(codes, levels), w_hat[name]['kernel'])


def test_pack_unpacked_params_is_idempotent(trained):
  _, _, packed, _ = trained
  again = mq_jax.pack(
    mq_jax.unpack(packed),
    RULES,
    quantized=True,
    model_state=packed.model_state,
  )
  assert again.metadata == packed.metadata
  assert again.model_state == packed.model_state
  for name in QUANTIZERS:
    assert_same_packed(
      again.params[name]['kernel'], packed.params[name]['kernel']
    )
  assert_same(again.params['norm'], packed.params['norm'])


@pytest.mark.parametrize('bits', [1, 3, 8])
def test_unpack_stacked_networks_works_under_vmap(bits):
  w = np.random.default_rng(bits).normal(size=(4, 2**bits + 3, 5))
  # All networks use the same levels, so their arrays have equal shapes.
  w = np.clip(w, -np.arctanh(0.9), np.arctanh(0.9))
  w[:, : 2**bits, 0] = np.arctanh(np.linspace(-0.9, 0.9, 2**bits))
  quantizer = mq_jax.dorefa(bits)
  networks = [
    mq_jax.pack({'w': weight.astype(np.float32)}, quantizer).params
    for weight in w
  ]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
  together = jax.vmap(mq_jax.unpack)(stacked)['w']
  assert together.shape == w.shape
  assert len(np.unique(together[0])) == 2**bits
  for found, network in zip(together, networks, strict=True):
    assert_same(found, decode(network['w']))


def test_pack_state_leaves_without_quantizer_are_kept():
  rules = [('first/kernel', mq_jax.dorefa(1)), ('last/kernel', None)]
  train = problem.make(rules, mq_jax.ste())
  state = problem.start(train)
  for batch in problem.batches(1):
    state, _ = train.step(state, batch)
  packed = train.pack(state)
  assert isinstance(packed.params['first']['kernel'], PackedArray)
  assert isinstance(packed.params['last']['kernel'], np.ndarray)
  assert_same(packed.params['last'], jax.device_get(state.params['last']))
  assert_same(packed.model_state, jax.device_get(state.model_state))
  assert_same(mq_jax.unpack(packed), jax.device_get(train.quantized(state)))
  # Codes number the values in use. Here they equal the codes of training.
  assert_same(
    mq_jax.codes_and_levels(packed.params['first']['kernel'])[0],
    train.codes(state)['first/kernel'],
  )
  other = train.pack(
    state, model_state={'a': 1}, metadata={'net': 'é', 'jax': '0'}
  )
  assert other.model_state == {'a': 1}
  assert other.metadata == packed.metadata | {'net': 'é', 'jax': '0'}


# Parameters.


@pytest.mark.optimized
@pytest.mark.parametrize(
  'name',
  [
    'dorefa1',
    'dorefa7',
    'bwn_channels',
    'bwn_axis0',
    'twn',
    'lsq2',
    'lq_nets2',
    'slb3',
    'inq5',
    'aciq4',
  ],
)
def test_pack_latent_params_are_quantized(name):
  quantizer = QUANTIZERS[name]
  w = 0.4 * jax.random.normal(jax.random.key(5), (67, 5))

  def quantized(w):
    variables = quantizer.init(w)
    theta = quantizer.parametrized(w) if quantizer.parametrized else w
    return mq_jax.quantize(quantizer, theta, variables)

  params, rules = {'w': w, 'b': jnp.ones(2)}, [('w', quantizer)]
  expected = jax.jit(quantized)(w)
  assert not np.array_equal(expected, w)
  if jax.tree.leaves(jax.eval_shape(quantizer.init, w)):
    with pytest.raises(ValueError, match=r'quantizer of w .*pass the State'):
      mq_jax.pack(params, rules)
    packed = mq_jax.pack(params | {'w': expected}, rules, quantized=True)
  else:
    packed = mq_jax.pack(params, rules)
  assert_same(decode(packed.params['w']), np.asarray(expected))
  assert_same(mq_jax.unpack(packed)['w'], expected)
  assert_fewest_bits(packed.params['w'])
  assert packed.model_state == {}
  assert_same(packed.params['b'], np.ones(2, np.float32))


def test_pack_quantized_params_keeps_values():
  # The levels of dorefa(2) are ±1 and ±1/3.
  levels = np.array([-0.7, -0.1, 0.2, 0.9], np.float32)
  w = levels[np.random.default_rng(0).integers(0, 4, (9, 9))]
  quantizer = mq_jax.dorefa(2)
  packed = mq_jax.pack({'w': jnp.asarray(w)}, quantizer, quantized=True)
  assert_same(mq_jax.unpack(packed), {'w': w})
  with pytest.raises(ValueError, match=r'w has 4 .*quantized=True to pack'):
    mq_jax.pack({'w': jnp.asarray(w)}, quantizer)
  # A weight with more values than levels must be latent.
  w[0, 0] = 0.5
  found = mq_jax.unpack(mq_jax.pack({'w': jnp.asarray(w)}, quantizer))
  np.testing.assert_allclose(
    np.unique(found['w']), [-1, -1 / 3, 1 / 3, 1], rtol=1e-6
  )
  with pytest.raises(
    ValueError, match=r'w has 5 .* has 4 levels.*leave out quantized=True'
  ):
    mq_jax.pack({'w': jnp.asarray(w)}, quantizer, quantized=True)


def test_pack_per_channel_levels_are_counted_per_channel():
  scales = np.array([0.5, 1.0, 1.7, 0.3], np.float32)
  w = scales * np.sign(np.random.default_rng(1).normal(size=(9, 4)))
  w = w.astype(np.float32)
  per_channel = mq_jax.per(mq_jax.bwn(), axes=-1)
  packed = mq_jax.pack({'w': w}, per_channel, quantized=True)
  assert packed.params['w'].bits == 1
  assert_same(mq_jax.unpack(packed), {'w': w})
  with pytest.raises(ValueError, match=r'w has 2 .*quantized=True'):
    mq_jax.pack({'w': w}, per_channel)
  with pytest.raises(ValueError, match=r'w has 8 .* has 2 levels'):
    mq_jax.pack({'w': w}, mq_jax.bwn(), quantized=True)


def test_pack_levels_of_its_own_for_each_weight_raises():
  params = {'w': jnp.linspace(-1, 1, 3)[None]}
  rules = [('w', mq_jax.per(mq_jax.bwn(), axes=-1))]
  with pytest.raises(ValueError, match='w: Each weight of shape'):
    mq_jax.pack(params, rules)


@pytest.mark.parametrize(
  ('quantizer', 'width'),
  [(mq_jax.bwn(), 1), (mq_jax.per(mq_jax.bwn(), axes=-1), 3)],
)
def test_pack_few_weights_with_two_values_are_latent(quantizer, width):
  """Uses fewer than four weights per table and value: they may be latent."""
  column = np.array([[1.0], [3.0]] * 4, np.float32)
  w = np.repeat(column, width, axis=1)
  found = mq_jax.unpack(mq_jax.pack({'w': w[:7]}, quantizer))['w']
  np.testing.assert_allclose(found, np.mean(column[:7]), rtol=1e-6)
  with pytest.raises(ValueError, match=r'w has 2 .*quantized=True'):
    mq_jax.pack({'w': w}, quantizer)
  packed = mq_jax.pack({'w': w}, quantizer, quantized=True)
  assert_same(mq_jax.unpack(packed)['w'], w)


@pytest.mark.parametrize(
  ('levels', 'quantizer'),
  [
    ([-1.0, -0.0, 1.0], methods.uniform(2)),
    ([-0.0, 0.5], mq_jax.bwn()),
    ([-0.0, 0.0, 1.0], methods.twn()),
    ([-3.0, -0.0, 0.0, 3.0], mq_jax.dorefa(2)),
    ([-0.0, 0.0], mq_jax.per(mq_jax.bwn(), axes=-1)),
  ],
)
def test_pack_minus_zero_keeps_sign(levels, quantizer):
  """Uses −0, because 1/x shows the sign of a zero."""
  values = np.array(levels, np.float32)
  w = values[np.random.default_rng(0).integers(0, len(values), (20, 20))]
  packed = mq_jax.pack({'w': w}, quantizer, quantized=True)
  assert_same(mq_jax.unpack(packed)['w'], w)
  assert_same(decode(packed.params['w']), w)


@pytest.mark.optimized
def test_pack_float64_is_exact(x64):
  w = np.random.default_rng(0).normal(size=(11, 7))
  for quantizer in (
    mq_jax.dorefa(4),
    mq_jax.bwn(),
    mq_jax.per(mq_jax.bwn(), axes=-1),
    QUANTIZERS['lq_nets2'],
  ):
    expected = jax.jit(lambda w, q=quantizer: mq_jax.quantize(q, w, q.init(w)))(
      w
    )
    assert expected.dtype == jnp.float64
    has_variables = quantizer is QUANTIZERS['lq_nets2']
    packed = mq_jax.pack(
      {'w': expected if has_variables else jnp.asarray(w)},
      quantizer,
      quantized=has_variables,
    )
    assert packed.params['w'].levels.dtype == np.float64
    assert_same(mq_jax.unpack(packed)['w'], expected)
    assert_same(jax.jit(mq_jax.unpack)(packed.params)['w'], expected)
    assert_same(decode(packed.params['w']), np.asarray(expected))


@pytest.mark.parametrize('kind', ['grid', 'table'])
def test_unpack_float64_levels_without_x64_raises(kind):
  levels = np.array([-3, -1, 1, 3] if kind == 'grid' else [-0.7, -0.1, 0.2, 2])
  w = 0.1 * levels[np.random.default_rng(0).integers(0, 4, (9, 9))]
  with jax.enable_x64(True):
    packed = mq_jax.pack({'w': w}, mq_jax.dorefa(2), quantized=True)
    assert_same(mq_jax.unpack(packed)['w'], w)
  array = packed.params['w']
  assert (array.grid is None) == (kind == 'table')
  with pytest.raises(ValueError, match=r'float64.*jax_enable_x64'):
    mq_jax.unpack(packed)
  with pytest.raises(ValueError, match=r'float64.*jax_enable_x64'):
    jax.jit(lambda: mq_jax.unpack(packed))()
  with pytest.raises(ValueError, match=r'float64.*jax_enable_x64'):
    mq_jax.codes_and_levels(array)


@pytest.mark.optimized
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_pack_narrow_floats_is_exact(dtype):
  w = jnp.asarray(np.random.default_rng(0).normal(size=(67, 7)), dtype)
  for quantizer in (
    mq_jax.dorefa(3),
    mq_jax.dorefa(8),
    mq_jax.per(mq_jax.bwn(), axes=-1),
    methods.uniform(4),
  ):
    packed = mq_jax.pack({'w': w}, quantizer)
    expected = jax.jit(lambda w, q=quantizer: mq_jax.quantize(q, w, ()))(w)
    assert expected.dtype == dtype
    assert packed.params['w'].levels.dtype == dtype
    assert_same(jax.jit(mq_jax.unpack)(packed.params)['w'], expected)


def test_pack_unquantized_leaves_of_any_dtype_are_kept():
  params = {
    'w': jnp.ones((2, 2)),
    'table': np.arange(3),
    'half': jnp.ones(2, 'f2'),
    'on': np.array(True),
  }
  packed = mq_jax.pack(params, [('w', mq_jax.bwn())])
  assert_same(mq_jax.unpack(packed), params)


# Programs that compute with Ŵ.

GRIDS = {
  'scale': (1, mq_jax.dorefa(3), [-7, -5, -3, -1, 1, 3, 5, 7]),
  'scales': (7, methods.lq_nets(3), [-7, -5, -3, -1, 1, 3, 5, 7]),
  'many': (1, mq_jax.dorefa(6), range(-31, 32)),
  'sign': (1, mq_jax.bwn(), [-1, 1]),
  'uneven': (7, mq_jax.per(mq_jax.bwn(), axes=-1), [-1, 3]),
}


def pack_grid(name, dtype):
  """Packs integers times one scale or one per channel; also returns Ŵ."""
  number, quantizer, integers = GRIDS[name]
  rng, multiples = np.random.default_rng(0), np.asarray(integers, dtype)

  def is_rounded(scale):
    table = scale * multiples
    exact = np.float64(scale) * np.asarray(integers)
    return exact_multiples(table) is not None and (
      name == 'sign' or np.any(table.astype(np.float64) != exact)
    )

  # Few scales of a narrow type divide their own products exactly.
  candidates = rng.uniform(0.1, 0.2, 500).astype(dtype)
  scale = np.array(list(filter(is_rounded, candidates))[:number], dtype)
  codes = rng.permutation(np.arange(670 * 7).reshape(670, 7) % len(multiples))
  w_hat = np.broadcast_to(scale, (670, 7)) * multiples[codes]
  params = mq_jax.pack({'w': w_hat}, quantizer, quantized=True).params
  assert params['w'].grid is not None
  assert params['w'].levels.size == number
  assert_same(mq_jax.unpack(params)['w'], w_hat)
  return params, w_hat


def run_in_jit(function, params):
  """Yields `function(params)` with params as constants and as arguments."""
  yield jax.jit(lambda: function(params))()
  yield jax.jit(function)(params)
  yield jax.jit(function)(jax.device_put(params))


@pytest.mark.optimized
@pytest.mark.parametrize('name', GRIDS)
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_unpack_narrow_values_widened_in_jit_stay_rounded(name, dtype):
  """Detects whether XLA skips the rounding between a product and a cast."""
  params, w_hat = pack_grid(name, dtype)

  def unpack_and_widen(params):
    return mq_jax.unpack(params)['w'].astype(jnp.float32)

  for found in run_in_jit(unpack_and_widen, params):
    assert_same(found, w_hat.astype(np.float32))


@pytest.mark.optimized
@pytest.mark.parametrize('name', GRIDS)
def test_unpack_summed_in_jit_uses_rounded_values(name):
  """Detects whether XLA fuses product and sum of a grid, and rounds once."""
  params, w_hat = pack_grid(name, np.float32)
  # The values nearly cancel, so their sum shows every bit.
  c = -w_hat * np.float32(1 + 2**-20)

  def unpack_and_add(params):
    return mq_jax.unpack(params)['w'] + c

  assert_same(unpack_and_add(params), w_hat + c)
  for found in run_in_jit(unpack_and_add, params):
    assert_same(found, w_hat + c)


# Grids.


@st.composite
def grid_weights(draw):
  """Draws integers times a scale, sometimes with one perturbed value."""
  dtype = draw(st.sampled_from([np.float32, np.float64]))
  scale = dtype(draw(st.floats(1e-20, 1e20)))
  maximum = draw(st.integers(1, 255))
  multiples = draw(
    st.lists(
      st.integers(-maximum, maximum), min_size=1, max_size=60, unique=True
    )
  )
  multiples = np.array(sorted({1, *multiples}))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  codes = rng.permutation(np.arange(123) % len(multiples)).reshape(41, 3)
  levels = scale * multiples.astype(dtype)
  perturbed = draw(st.booleans())
  if perturbed:
    moved = draw(st.integers(0, len(multiples) - 1))
    up = draw(st.sampled_from([-np.inf, np.inf]))
    levels[moved] = np.nextafter(levels[moved], dtype(up))
  return levels[codes], multiples, perturbed


@pytest.mark.filterwarnings('error::RuntimeWarning')
@hypothesis.given(grid_weights())
@hypothesis.settings(max_examples=150)
def test_pack_uses_grid_only_if_exact_and_smaller(given):
  w, multiples, perturbed = given
  with jax.enable_x64(True):
    packed = mq_jax.pack({'w': w}, mq_jax.dorefa(8), quantized=True)
  array = packed.params['w']
  assert_same(decode(array), w)
  assert_fewest_bits(array)
  number = len(np.unique(w))
  bits = max(1, (number - 1).bit_length())
  table = -(-w.size * bits // 8) + number * w.itemsize
  taken = array.data.nbytes + array.levels.nbytes
  assert taken <= table
  if array.grid is not None:
    assert taken < table
  elif not perturbed:
    # There must be a reason: the grid is not smaller, or it takes nine bits.
    step = np.gcd.reduce(multiples - multiples.min()) or 1
    wide = max(1, int(np.ptp(multiples) // step).bit_length())
    grid = -(-w.size * wide // 8) + w.itemsize
    assert wide > 8 or grid >= table


def test_pack_grids_equal_hand_computed_grids():
  rng = np.random.default_rng(0)

  def pack_values(w):
    packed = mq_jax.pack({'w': w}, mq_jax.dorefa(8), quantized=True)
    return packed.params['w']

  def packed(multiples):
    codes = rng.permutation(np.arange(30 * 30) % len(multiples)).reshape(30, 30)
    w = np.float32(0.1) * np.array(multiples, np.float32)[codes]
    return pack_values(w)

  assert packed([-1, 1]).grid == (-1, 2)
  assert packed([-1, 0, 1]).grid == (-1, 1)
  assert packed([-3, -1, 1, 3]).grid == (-3, 2)
  assert packed([1, 4, 7]).grid == (1, 3)
  assert packed(range(-128, 128)).grid == (-128, 1)
  array = packed([-3, -1, 1, 3])
  assert_same(array.levels, np.array([0.1], np.float32))
  assert (array.bits, array.data.nbytes) == (2, 225)
  # 257 grid positions would take nine bits. A table of 18 values takes five.
  ladder = [-(2**i) for i in range(8, -1, -1)] + [2**i for i in range(9)]
  few = packed([*ladder[1:-1], -255])
  assert few.grid is None
  assert few.bits == 5
  # The same holds for a large table.
  w = rng.permutation(np.arange(-255, 256))[:200].astype(np.float32)
  w[:3] = [-255, 255, 1]
  many = pack_values(w.reshape(20, 10))
  assert many.grid is None
  assert many.bits == 8
  assert_same(packed_array.values(many), w.reshape(20, 10))


def test_pack_channels_share_one_grid():
  rng = np.random.default_rng(0)
  scales = np.exp(rng.normal(size=6)).astype(np.float32)
  scales[2] = 0  # a dead channel
  multiples = rng.integers(-1, 2, (50, 6)) * 2 + 1
  w = (scales * multiples).astype(np.float32) + 0.0
  packed = mq_jax.pack({'w': w}, methods.lq_nets(2), quantized=True)
  array = packed.params['w']
  assert array.levels.shape == (1, 6, 1)
  assert array.grid == (-1, 1)  # the dead channel adds the position 0
  assert_same(packed_array.values(array), w)
  codes, table = mq_jax.codes_and_levels(array)
  assert table.shape == (1, 6, 2**array.bits)
  assert_same(mq_jax.dequantize(codes, table), w)


# Rejected input.


@pytest.mark.parametrize(
  'quantizer', [mq_jax.dorefa(2), mq_jax.per(mq_jax.bwn(), axes=-1)]
)
@pytest.mark.parametrize('shape', [(0, 3), (3, 0)])
def test_pack_empty_weight_raises(quantizer, shape):
  for quantized in (False, True):
    with pytest.raises(ValueError, match='a/w is empty'):
      mq_jax.pack(
        {'a': {'w': jnp.zeros(shape)}}, quantizer, quantized=quantized
      )


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('quantizer', [mq_jax.dorefa(8), methods.uniform(2)])
def test_pack_non_finite_weight_raises(quantizer, value):
  w = np.array([[0.1, value], [1.0, 1.0]], np.float32)
  with pytest.raises(ValueError, match=r'a/w .*not finite'):
    mq_jax.pack({'a': {'w': w}}, quantizer, quantized=True)
  with pytest.raises(ValueError, match=r'a/w .*not finite'):
    mq_jax.pack({'a': {'w': w}}, mq_jax.bwn())


def test_pack_more_than_256_values_raises():
  def codes(w, variables):
    return jnp.arange(w.size, dtype=jnp.uint16).reshape(w.shape), w.ravel()

  wide = mq_jax.bwn()._replace(codes=codes)
  w = np.arange(257.0, dtype=np.float32).reshape(1, 257)
  for quantized in (False, True):
    with pytest.raises(ValueError, match=r'a/w has 257 different values.*256'):
      mq_jax.pack({'a': {'w': w}}, wide, quantized=quantized)
  assert_same(
    mq_jax.unpack(mq_jax.pack({'w': w[:, :256]}, wide)), {'w': w[:, :256]}
  )


def test_pack_bad_metadata_or_rules_raises():
  params = {'w': jnp.ones((2, 2)), 'n': jnp.ones((2, 2), jnp.int32)}
  rules = [('w', mq_jax.bwn())]
  for metadata in ({'accuracy': 91.5}, {1: 'a'}, {'a': None}, {'a': b'b'}):
    name, text = next(iter(metadata.items()))
    with pytest.raises(ValueError, match=f'{name!r}: {text!r} is not text'):
      mq_jax.pack(params, rules, metadata=metadata)
  with pytest.raises(ValueError, match=r"'v' matches no leaf.*w"):
    mq_jax.pack(params, [('v', mq_jax.bwn())])
  with pytest.raises(TypeError, match='n has dtype int32'):
    mq_jax.pack(params, [('n', mq_jax.bwn())])


def test_pack_state_of_other_train_step_raises():
  lsq = methods.lsq(2, optimizer=optax.sgd(0.1))
  rules = [('first/kernel', lsq), ('last/kernel', mq_jax.bwn())]
  state = problem.start(problem.make(rules, mq_jax.ste()))

  def pack(others):
    return problem.make(others, mq_jax.ste()).pack(state)

  leaves = packed_array.packed_leaves(pack(rules).params)
  assert leaves.keys() == {'first/kernel', 'last/kernel'}
  with pytest.raises(ValueError, match="'v' matches no leaf"):
    pack([('v', mq_jax.bwn())])
  with pytest.raises(
    ValueError, match=r'bwn\(\) for last/kernel, .* full precision'
  ):
    pack(rules[:1])
  with pytest.raises(
    ValueError, match=r'full precision for first/bias, .* bwn\(\)'
  ):
    pack([*rules, ('first/bias', mq_jax.bwn())])
  # The texts of these quantizers are equal, but their variables differ.
  last = mq_jax.bwn()._replace(init=lambda w: jnp.ones(2))
  with pytest.raises(ValueError, match=r'state\.variables'):
    pack([rules[0], ('last/kernel', last)])
  # Neither dorefa nor bwn has variables that could give the other away.
  others = [rules[0], ('last/kernel', mq_jax.dorefa())]
  with pytest.raises(ValueError, match=r'bwn\(\) for last/.* dorefa\(\)'):
    pack(others)


def test_pack_and_summary_state_name_method_of_train_step():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  state = problem.start(train)
  for function in (mq_jax.pack, mq_jax.summary):
    with pytest.raises(TypeError, match=r'call train\.pack\(state\)'):
      function(state, mq_jax.dorefa(2))


def test_pack_state_of_trials_raises_and_one_trial_packs():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  keys = jax.random.split(jax.random.key(0), 3)
  state = jax.vmap(train.init, in_axes=(0, None, None, None))(
    keys, problem.params(), problem.model_state(), next(problem.batches(1))
  )
  with pytest.raises(ValueError, match=r'replicas of shape \(3,\): pack one'):
    train.pack(state)
  one = jax.tree.map(lambda leaf: leaf[0], state)
  w_hat = jax.device_get(train.quantized(one))
  assert_same(mq_jax.unpack(train.pack(one)), w_hat)


# Unpacking into a given structure.


def test_unpack_like_equinox_model_restores_structure():
  model = eqx.nn.MLP(3, 2, 5, 1, key=jax.random.key(0))
  arrays, rest = eqx.partition(model, eqx.is_array)
  rules = [('layers/./weight', mq_jax.per(mq_jax.bwn(), axes=0))]
  packed = mq_jax.pack(arrays, rules)
  assert isinstance(packed.params.layers[0].weight, PackedArray)
  back = mq_jax.unpack(packed)
  assert jax.tree.structure(back) == jax.tree.structure(arrays)
  alpha = np.mean(np.abs(model.layers[0].weight), axis=1, keepdims=True)
  np.testing.assert_allclose(
    back.layers[0].weight,
    np.where(np.asarray(model.layers[0].weight) >= 0, alpha, -alpha),
    rtol=1e-6,
  )
  # A file restores nested dicts instead of the model.
  nested = {
    'layers': {
      str(i): {
        'weight': packed.params.layers[i].weight,
        'bias': packed.params.layers[i].bias,
      }
      for i in (1, 0)
    }
  }
  again = mq_jax.unpack(packed._replace(params=nested), like=arrays)
  assert jax.tree.structure(again) == jax.tree.structure(arrays)
  assert_same(again, back)
  x = jnp.ones(3)
  np.testing.assert_array_equal(
    eqx.combine(again, rest)(x), eqx.combine(back, rest)(x)
  )


@pytest.mark.parametrize(
  ('like', 'match'),
  [
    (
      {'w': np.ones((2, 3))},
      r'b is float32\(2,\) in `packed` and missing in `like`',
    ),
    (
      {'w': np.ones((3, 2)), 'b': np.ones(2)},
      r'w is float32\(2, 3\) in `packed` and float32\(3, 2\) in `like`',
    ),
    (
      {'w': np.ones((2, 3)), 'b': np.ones(2), 'c': 1.0},
      r'c is missing in `packed` and float32\(\) in `like`',
    ),
    (
      {'w': jnp.ones((2, 3), jnp.bfloat16), 'b': np.ones(2)},
      r'w is float32\(2, 3\) in `packed` and bfloat16\(2, 3\) in `like`',
    ),
    (
      {'w': np.ones((2, 3)), 'b': np.ones(2, int)},
      r'b is float32\(2,\) in `packed` and int32\(2,\) in `like`',
    ),
  ],
)
def test_unpack_like_other_structure_raises(like, match):
  packed = mq_jax.pack({'w': jnp.ones((2, 3)), 'b': jnp.ones(2)}, mq_jax.bwn())
  with pytest.raises(ValueError, match=match):
    mq_jax.unpack(packed, like)


# Bytes.


@pytest.mark.parametrize('kind', ['bwn', 'dorefa1'])
def test_save_packed_resnet20_size_equals_its_bits(tmp_path, kind):
  rng = np.random.default_rng(0)
  net = models.resnet20()
  shapes = jax.eval_shape(
    lambda: net.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), train=False)
  )
  variables = jax.tree.map(
    lambda like: rng.normal(size=like.shape).astype(np.float32), shapes
  )
  # The one case packs latent weights, the other quantized weights.
  weights = variables['params']
  if kind == 'dorefa1':
    weights = jax.tree.map(lambda w: np.sign(w) if w.ndim > 1 else w, weights)
  packed = mq_jax.pack(
    weights,
    QUANTIZERS[kind],
    quantized=kind == 'dorefa1',
    model_state=variables['batch_stats'],
    metadata={'network': 'resnet20'},
  )
  kernels, others = 0, 0
  levels = 0
  for path, leaf in named_leaves(shapes['params']).items():
    if path.endswith('kernel'):
      kernels += math.prod(leaf.shape)
      levels += 4  # one scale
    else:
      others += math.prod(leaf.shape)
  assert kernels == 270_896
  statistics = sum(
    math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes['batch_stats'])
  )
  expected = kernels / 8 + levels + 4 * (others + statistics)
  path = tmp_path / 'net.safetensors'
  size = mq_jax.save_packed(path, packed)
  content = path.read_bytes()
  assert size == len(content)
  header = int.from_bytes(content[:8], 'little')
  tensors = json.loads(content[8 : 8 + header]).keys() - {'__metadata__'}
  # Codes and levels of each kernel, and the other leaves.
  assert len(tensors) == 2 * 22 + 2 * 21 + 1 + 2 * 21
  assert abs(len(content) - 8 - header - expected) <= 0.02 * expected
  assert header <= 160 * len(tensors)
