"""Tests packed files: exact round trips, atomic writes, rejected damage."""

import hashlib
import io
import json
import os
import pathlib
import pickle
import resource
import subprocess
import sys
import tracemalloc
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import mq_jax
from mq_jax import methods
from mq_jax.packing.packed_array import PackedArray, is_packed, packed_leaves
from mq_jax.quantizers import at_start, quantize
from mq_jax.selection import named_leaves

METADATA = {'network': 'é "q" \n', 'accuracy': '91.50'}
PREFIX = 8  # bytes that contain the length of the header
FORMAT = 'mq_jax packed 1'


def network(seed=0):
  """Packs a grid, a table, tables per channel, and unquantized leaves."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  levels = np.array([-0.7, -0.1, 0.2, 0.9], np.float32)
  params = {
    'stage1': {
      'block0': {'kernel': np.where(normal(3, 5) > 0, 0.5, -0.5).astype('f4')},
      'block10': {'kernel': levels[rng.permutation(21).reshape(7, 3) % 4]},
    },
    'head': {'kernel': np.sign(normal(9, 2)) * normal(2), 'bias': normal(2)},
  }
  state = {'norm': {'var': np.array([3, 4], 'i4'), 'mean': normal(2).T}}
  rules = [
    ('stage1/block0/kernel', mq_jax.bwn()),
    ('stage1/block10/kernel', mq_jax.dorefa(2)),
    ('head/kernel', mq_jax.per(mq_jax.bwn(), axes=-1)),
  ]
  return mq_jax.pack(
    params, rules, quantized=True, model_state=state, metadata=METADATA
  )


def flatten_contents(packed):
  """Returns all contents as dtypes, shapes, bytes and strings."""
  found = {}
  leaves = named_leaves(packed.params, is_leaf=is_packed)
  for path, leaf in leaves.items():
    if is_packed(leaf):
      found[path] = (leaf.shape, leaf.bits, leaf.grid, leaf.quantizer)
      found[f'data/{path}'], found[f'levels/{path}'] = leaf.data, leaf.levels
    else:
      found[f'params/{path}'] = leaf
  for path, leaf in named_leaves(packed.model_state).items():
    found[f'state/{path}'] = leaf
  return {
    path: leaf
    if isinstance(leaf, tuple)
    else (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
    for path, leaf in found.items()
  } | {'metadata': packed.metadata}


@pytest.fixture
def saved(tmp_path):
  """Saves a network; returns the path, the network and the bytes."""
  path = tmp_path / 'net.safetensors'
  packed = network()
  size = mq_jax.save_packed(path, packed)
  content = path.read_bytes()
  assert size == len(content)
  return path, packed, content


def split(content):
  """Splits a file into its header (a dict) and the bytes after it."""
  length = int.from_bytes(content[:PREFIX], 'little')
  return (
    json.loads(content[PREFIX : PREFIX + length]),
    content[PREFIX + length :],
  )


def join_file(header, body, sort_keys=False):
  text = json.dumps(header, sort_keys=sort_keys).encode()
  return len(text).to_bytes(PREFIX, 'little') + text + body


def refused(path, content, match='changed'):
  path.write_bytes(content)
  with pytest.raises(ValueError, match=match) as error:
    mq_jax.load_packed(path)
  assert str(path) in str(error.value)
  assert f'({len(content)} bytes)' in str(error.value)


# Round trips.


def test_load_packed_saved_file_restores_every_bit(saved):
  path, packed, _ = saved
  loaded = mq_jax.load_packed(path)
  assert flatten_contents(loaded) == flatten_contents(packed)
  assert loaded.metadata == METADATA | {
    'jax': jax.__version__,
    'mq_jax': mq_jax.__version__,
  }
  assert list(loaded.params['stage1']) == ['block0', 'block10']
  forms = {
    (leaf.grid is None, leaf.levels.ndim)
    for leaf in packed_leaves(loaded.params).values()
  }
  assert forms == {(False, 1), (True, 1), (False, 3)}
  for found, expected in zip(
    jax.tree.leaves(mq_jax.unpack(loaded)),
    jax.tree.leaves(mq_jax.unpack(packed)),
    strict=True,
  ):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_save_packed_loaded_network_writes_same_contents(saved, tmp_path):
  """Compares contents, because safetensors writes metadata in any order."""
  path, packed, content = saved
  mq_jax.save_packed(path, mq_jax.load_packed(path))
  assert split(path.read_bytes()) == split(content)
  shuffled = packed._replace(
    params=dict(reversed(packed.params.items())),
    metadata=dict(reversed(packed.metadata.items())),
  )
  path = tmp_path / 'new' / 'b.safetensors'
  mq_jax.save_packed(path, shuffled)
  assert split(path.read_bytes()) == split(content)


def test_save_packed_all_supported_dtypes_round_trip(tmp_path):
  path = tmp_path / 'net.safetensors'
  rng = np.random.default_rng(0)
  state = {
    name: {'x': rng.integers(0, 2, (3, 2)).astype(name)}
    for name in ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u8', '?')
  } | {
    'transposed': rng.normal(size=(2, 3)).T,
    'strided': np.arange(12.0).reshape(4, 3)[::2, ::-1],
    'odd': np.array([-0.0, np.nan, np.inf, 5e-324]),
    'scalar': np.float32(2.5),
    'none': np.zeros((0, 3)),
    'jax': jnp.arange(3),
  }
  packed = network()._replace(model_state=state)
  mq_jax.save_packed(path, packed)
  assert flatten_contents(mq_jax.load_packed(path)) == flatten_contents(packed)


def test_save_packed_big_endian_arrays_round_trip(tmp_path):
  path = tmp_path / 'net.safetensors'
  state = {'x': np.arange(3, dtype='>f4'), 'y': np.array([1, 2], '>i8')}
  mq_jax.save_packed(path, network()._replace(model_state=state))
  loaded = mq_jax.load_packed(path).model_state
  for name, leaf in state.items():
    assert loaded[name].dtype == leaf.dtype.newbyteorder('=')
    np.testing.assert_array_equal(loaded[name], leaf)


def test_save_packed_without_model_state_round_trips(tmp_path):
  path = tmp_path / 'net.safetensors'
  packed = mq_jax.pack({'w': np.ones((2, 2), 'f4')}, mq_jax.bwn())
  mq_jax.save_packed(path, packed)
  assert flatten_contents(mq_jax.load_packed(path)) == flatten_contents(packed)
  assert mq_jax.load_packed(path).model_state == {}


def test_save_packed_tensor_names_are_prefixed_paths(saved):
  path, packed, _ = saved
  arrays = safetensors.numpy.load_file(path)
  assert sorted(arrays) == [
    'codes/head/kernel',
    'codes/stage1/block0/kernel',
    'codes/stage1/block10/kernel',
    'levels/head/kernel',
    'levels/stage1/block0/kernel',
    'levels/stage1/block10/kernel',
    'model_state/norm/mean',
    'model_state/norm/var',
    'params/head/bias',
  ]
  np.testing.assert_array_equal(
    arrays['codes/head/kernel'], packed.params['head']['kernel'].data
  )


# Rejected input.


@pytest.mark.parametrize(
  ('leaf', 'match'),
  [
    (jnp.ones(2, jnp.float8_e4m3fn), 'model_state/x is float8_e4m3fn'),
    (np.ones(2, complex), 'model_state/x is complex128'),
    (np.ones(2, np.longdouble), 'model_state/x is float128'),
    (np.array(['a']), 'model_state/x is <U1'),
    (np.array([None]), 'model_state/x is object'),
    (jax.random.key(0), 'model_state/x is key<fry>'),
  ],
)
def test_save_packed_unsupported_dtype_raises(tmp_path, leaf, match):
  # The message also says what to do.
  with pytest.raises(ValueError, match=rf'{match}.* float32.*eqx\.filter'):
    mq_jax.save_packed(
      tmp_path / 'a.safetensors', network()._replace(model_state={'x': leaf})
    )
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  'quantizer',
  [mq_jax.per(mq_jax.bwn(), axes=-1), mq_jax.dorefa(8), methods.lq_nets(2)],
  ids=str,
)
def test_save_packed_bfloat16_network_loads_equal(tmp_path, quantizer):
  rng = np.random.default_rng(0)
  w = jnp.asarray(0.1 * rng.normal(size=(20, 4)), jnp.bfloat16)
  w_hat = quantize(quantizer, *at_start(quantizer, w))
  params = {'w': w_hat, 'bias': jnp.arange(3, dtype=jnp.bfloat16) / 7}
  packed = mq_jax.pack(
    params,
    [('w', quantizer)],
    quantized=True,
    model_state={'mean': jnp.ones(2, jnp.bfloat16)},
  )
  mq_jax.save_packed(tmp_path / 'a.safetensors', packed)
  loaded = mq_jax.load_packed(tmp_path / 'a.safetensors')
  assert loaded.params['w'].levels.dtype == jnp.bfloat16
  for found in (mq_jax.unpack(loaded), jax.jit(mq_jax.unpack)(loaded.params)):
    for name, leaf in params.items():
      assert found[name].dtype == jnp.bfloat16
      np.testing.assert_array_equal(found[name], leaf)
  assert loaded.model_state['mean'].dtype == jnp.bfloat16


@pytest.mark.parametrize('name', ['net.npz', 'net', 'net.safetensors.bak'])
def test_save_packed_wrong_suffix_raises(tmp_path, name):
  with pytest.raises(ValueError, match=rf'{name}: .*end in \.safetensors'):
    mq_jax.save_packed(tmp_path / name, network())
  assert not os.listdir(tmp_path)


def test_save_packed_names_with_slashes_load_equal(tmp_path):
  """Uses the names of Haiku, of which one is a prefix of another."""
  w = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
  params = {
    'net': {'w': w, '~': jnp.ones(2)},
    'net/~/linear_1': {'w': 2 * w, 'b': jnp.zeros(4)},
    '100%2F': {'w': 3 * w},
  }
  state = {'net/~/norm/~/mean_ema': {'average': np.arange(3.0)}}
  rules = [('net/~/linear_1/w', mq_jax.bwn()), ('100.*/w', mq_jax.dorefa(2))]
  packed = mq_jax.pack(params, rules, model_state=state)
  mq_jax.save_packed(tmp_path / 'a.safetensors', packed)
  loaded = mq_jax.load_packed(tmp_path / 'a.safetensors')
  chex.assert_trees_all_equal(mq_jax.unpack(loaded), mq_jax.unpack(packed))
  chex.assert_trees_all_equal(loaded.model_state, state)


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_save_packed_failed_write_leaves_only_old_file(
  saved, monkeypatch, call
):
  path, packed, content = saved

  def full(*_):
    raise OSError('no space left on device')

  monkeypatch.setattr(os, call, full)
  with pytest.raises(OSError, match='no space'):
    mq_jax.save_packed(path, packed._replace(metadata={}))
  assert path.read_bytes() == content
  assert os.listdir(path.parent) == ['net.safetensors']


def test_load_packed_folder_raises(tmp_path):
  path = tmp_path / 'a.safetensors'
  path.mkdir()
  with pytest.raises(FileNotFoundError, match=r'a\.safetensors is a folder'):
    mq_jax.load_packed(path)
  with pytest.raises(IsADirectoryError):
    mq_jax.save_packed(path, network())
  assert os.listdir(tmp_path) == ['a.safetensors']


def test_load_packed_missing_file_raises(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'none\.safetensors does not exist'
  ):
    mq_jax.load_packed(tmp_path / 'none.safetensors')


# Other files.


def foreign():
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, 'w') as file:
    file.writestr('data.pkl', 'x' * 100)
  tensors = {'params/w': np.ones((2, 2), 'f4')}
  return {
    'empty': b'',
    'zip': archive.getvalue(),
    'pickle': pickle.dumps({'w': np.ones(3)}),
    'text': 'weights: none, "é"\n'.encode() * 5,
    'json': b'{"weights": [1, 2, 3]}',
    'zeros': bytes(100),
    'safetensors': safetensors.numpy.save(tensors),
    'other_texts': safetensors.numpy.save(tensors, {'format': 'pt'}),
    'next_version': safetensors.numpy.save(
      tensors, {'format': 'mq_jax packed 2'}
    ),
    'no_texts': safetensors.numpy.save(tensors, {'format': FORMAT}),
    'no_tensors': safetensors.numpy.save({}, {'format': FORMAT}),
  }


@pytest.mark.parametrize('name', foreign())
def test_load_packed_foreign_file_raises(tmp_path, name):
  refused(
    tmp_path / 'a.safetensors',
    foreign()[name],
    'not a file of mq_jax.save_packed',
  )


def test_load_packed_other_format_names_format(tmp_path):
  path = tmp_path / 'a.safetensors'
  refused(path, foreign()['other_texts'], "the format is 'pt'")
  refused(path, foreign()['next_version'], "the format is 'mq_jax packed 2'")


def test_load_packed_truncated_file_raises(saved):
  path, _, content = saved
  for length in range(len(content)):
    refused(path, content[:length], 'truncated')


def test_load_packed_trailing_bytes_raises(saved):
  path, _, content = saved
  for more in (b'\0', b'\0' * 8, content):
    refused(path, content + more)


# Forged files with a correct digest.


def forge_file(arrays, layers, metadata='{}', **texts):
  """Makes a file from these parts without mq_jax."""
  texts = {
    'format': FORMAT,
    'layers': layers if isinstance(layers, str) else json.dumps(layers),
    'metadata': metadata,
  } | texts
  heads = [[n, str(a.dtype), a.shape] for n, a in sorted(arrays.items())]
  three = [texts[name] for name in ('format', 'layers', 'metadata')]
  digest = hashlib.sha256(
    json.dumps([heads, three], separators=(',', ':')).encode()
  )
  for _, array in sorted(arrays.items()):
    digest.update(array.tobytes())
  return safetensors.numpy.save(arrays, texts | {'sha256': digest.hexdigest()})


CODES = np.array([0b10110101, 0b1], np.uint8)
LEVELS = np.array([-0.5, 0.5], np.float32)
ARRAYS = {'codes/w': CODES, 'levels/w': LEVELS}
SCALE = np.array([0.5], np.float32)
ON_GRID = {'codes/w': CODES, 'levels/w': SCALE}


def test_load_packed_valid_forgery_loads(tmp_path):
  """Shows that only their own defects make the forgeries below invalid."""
  path = tmp_path / 'a.safetensors'
  w = np.array([[1, -1, 1], [-1, 1, 1], [-1, 1, 1]]) / 2
  for arrays, grid in ((ARRAYS, None), (ON_GRID, [-1, 2])):
    path.write_bytes(forge_file(arrays, {'w': [1, [3, 3], grid, 'bwn']}))
    loaded = mq_jax.load_packed(path)
    np.testing.assert_array_equal(mq_jax.unpack(loaded)['w'], w)
    assert loaded.params['w'].quantizer == 'bwn'


DEEP = '[' * 100_000 + ']' * 100_000
LAYERS = {
  # Bits.
  'no_bits': {'w': [0, [3, 3], None, '']},
  'nine_bits': {'w': [9, [3, 3], None, '']},
  'two_bits': {'w': [2, [3, 3], None, '']},
  'negative_bits': {'w': [-1, [3, 3], None, '']},
  'true_bits': {'w': [True, [3, 3], None, '']},
  'float_bits': {'w': [1.0, [3, 3], None, '']},
  'text_bits': {'w': ['1', [3, 3], None, '']},
  'null_bits': {'w': [None, [3, 3], None, '']},
  'nan_bits': '{"w":[NaN,[3,3],null,""]}',
  'infinite_bits': '{"w":[Infinity,[3,3],null,""]}',
  'many_bits': {'w': [10**40, [3, 3], None, '']},
  'listed_bits': {'w': [[1], [3, 3], None, '']},
  # Shapes.
  'larger': {'w': [1, [3, 6], None, '']},
  'smaller': {'w': [1, [2, 4], None, '']},
  'negative': {'w': [1, [-3, -3], None, '']},
  'float_shape': {'w': [1, [3.0, 3], None, '']},
  'true_shape': {'w': [1, [9, True], None, '']},
  'infinite_shape': '{"w":[1,[Infinity],null,""]}',
  'nan_shape': '{"w":[1,[NaN],null,""]}',
  'number_for_a_shape': {'w': [1, 9, None, '']},
  'text_for_a_shape': {'w': [1, '9', None, '']},
  'null_for_a_shape': {'w': [1, None, None, '']},
  'dict_for_a_shape': {'w': [1, {'9': 9}, None, '']},
  'nested_shape': {'w': [1, [[9]], None, '']},
  'text_in_a_shape': {'w': [1, [1, 'aaaaaaaaa'], None, '']},
  'huge': {'w': [1, [10**12, 10**6], None, '']},
  'huge_and_none': {'w': [1, [10**18, 0], None, '']},
  # Grids. The table has two levels.
  'grid_with_table': {'w': [1, [3, 3], [-1, 2], '']},
  # Types of JSON values.
  'no_json': '{',
  'empty': '',
  'list': [],
  'null': 'null',
  'number': '1',
  'text': '"w"',
  'deep': DEEP,
  'many_digits': '{"w":[1,[' + '1' * 5000 + '],null,""]}',
  'null_layer': {'w': None},
  'empty_layer': {'w': []},
  'dict_layer': {'w': {'bits': 1, 'shape': [3, 3], 'grid': 0, 'q': 0}},
  'text_layer': {'w': '1309'},
  'short_layer': {'w': [1, [3, 3], None]},
  'long_layer': {'w': [1, [3, 3], None, '', 0]},
  'number_for_a_name': {'w': [1, [3, 3], None, 7]},
  'list_for_a_name': {'w': [1, [3, 3], None, []]},
  # Missing or additional layers.
  'none': {},
  'other': {'v': [1, [3, 3], None, '']},
  'one_more': {n: [1, [3, 3], None, ''] for n in 'vw'},
}


@pytest.mark.parametrize('name', LAYERS)
def test_load_packed_forged_layer_raises(tmp_path, name):
  refused(tmp_path / 'a.safetensors', forge_file(ARRAYS, LAYERS[name]))


@pytest.mark.parametrize(
  'grid',
  [
    '[]',
    '[1]',
    '[0,1,5]',
    '0',
    'false',
    'true',
    '""',
    '"12"',
    '{}',
    '[0,0]',
    '[0,-1]',
    '[0.5,1]',
    '[0,1.0]',
    '[true,1]',
    '["0","1"]',
    '[null,1]',
    '[Infinity,1]',
    '[0,NaN]',
    '[0,1e999]',
    '[[0],[1]]',
    '[256,1]',
    '[-256,1]',
    f'[{10**30},1]',
    f'[0,{10**30}]',
    '[0,511]',
  ],
)
def test_load_packed_forged_grid_raises(tmp_path, grid):
  layers = f'{{"w":[1,[3,3],{grid},""]}}'
  refused(tmp_path / 'a.safetensors', forge_file(ON_GRID, layers))


@pytest.mark.parametrize(
  'arrays',
  [
    {'codes/w': CODES},
    {'levels/w': LEVELS},
    {},
    ARRAYS | {'codes/v': CODES},
    ARRAYS | {'levels/v': LEVELS},
    ARRAYS | {'params/w/x': LEVELS},
    ARRAYS | {'more/w': LEVELS},
    ARRAYS | {'w': LEVELS},
    ARRAYS | {'model_state/a': LEVELS, 'model_state/a/b': LEVELS},
    ARRAYS | {'codes/w': CODES[:1]},
    ARRAYS | {'codes/w': np.append(CODES, CODES)},
    ARRAYS | {'codes/w': CODES[None]},
    ARRAYS | {'codes/w': CODES.astype(np.int8)},
    ARRAYS | {'codes/w': CODES.astype(np.float32)},
    ARRAYS | {'codes/w': np.zeros((0, 2), np.uint8)},
    ARRAYS | {'levels/w': LEVELS.astype(np.int32)},
    ARRAYS | {'levels/w': LEVELS > 0},
    ARRAYS | {'levels/w': np.array(1, np.float32)},
    ARRAYS | {'levels/w': LEVELS[:0]},
    ARRAYS | {'levels/w': np.ones(3, np.float32)},
    ARRAYS | {'levels/w': LEVELS[None]},
    ARRAYS | {'levels/w': np.ones((1, 2, 2), np.float32)},
    ARRAYS | {'levels/w': np.ones((1, 1, 1, 2), np.float32)},
    ARRAYS | {'levels/w': np.ones((0, 3, 2), np.float32)},
  ],
)
def test_load_packed_forged_arrays_raise(tmp_path, arrays):
  content = forge_file(arrays, {'w': [1, [3, 3], None, '']})
  refused(tmp_path / 'a.safetensors', content)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('form', ['table', 'tables', 'grid'])
def test_load_packed_forged_non_finite_levels_raise(tmp_path, value, form):
  path = tmp_path / 'a.safetensors'
  grid = [-1, 2] if form == 'grid' else None
  levels = {
    'table': LEVELS,
    'tables': np.tile(LEVELS, (1, 3, 1)),
    'grid': np.tile(SCALE, (1, 3, 1)),
  }[form]
  layers = {'w': [1, [3, 3], grid, '']}
  arrays = ARRAYS | {'levels/w': levels}
  path.write_bytes(forge_file(arrays, layers))
  assert list(mq_jax.load_packed(path).params) == ['w']
  wrong = levels.copy()
  wrong.flat[-1] = value
  content = forge_file(ARRAYS | {'levels/w': wrong}, layers)
  refused(path, content, 'w has levels that are not finite')


@pytest.mark.parametrize('tables', [(), (1, 3), (3, 1)])
def test_load_packed_forged_codes_beyond_table_raise(tmp_path, tables):
  """Uses codes that would index beyond the table of levels."""
  path = tmp_path / 'a.safetensors'
  layers = {'w': [2, [3, 3], None, '']}
  levels = np.tile(np.array([-1, 0, 1], np.float32), (*tables, 1))
  codes = np.array([0b10_01_00_10, 0b01_00_10_01, 0b10], np.uint8)

  def content(data):
    return forge_file({'codes/w': data, 'levels/w': levels}, layers)

  path.write_bytes(content(codes))
  np.testing.assert_array_equal(
    mq_jax.unpack(mq_jax.load_packed(path))['w'],
    [[1, -1, 0], [1, 0, 1], [-1, 0, 1]],
  )
  for place in range(9):
    wrong = codes.copy()
    wrong[place // 4] |= 0b11 << 2 * (place % 4)
    refused(path, content(wrong), 'w has codes beyond its 3 levels')
  # One bit with one level: code 1 is invalid.
  arrays = ARRAYS | {'levels/w': np.ones((*tables, 1), np.float32)}
  layers = {'w': [1, [3, 3], None, '']}
  refused(path, forge_file(arrays, layers), 'w has codes beyond its 1 levels')


@pytest.mark.parametrize(
  'texts',
  [
    {'metadata': '[]'},
    {'metadata': 'null'},
    {'metadata': '1'},
    {'metadata': '"a"'},
    {'metadata': '{'},
    {'metadata': ''},
    {'metadata': DEEP},
    {'metadata': '{"a":1}'},
    {'metadata': '{"a":{}}'},
    {'metadata': '{"a":null}'},
    {'more': 'text'},
    {'format': 'mq_jax packed 0'},
  ],
)
def test_load_packed_forged_metadata_raises(tmp_path, texts):
  content = forge_file(ARRAYS, {'w': [1, [3, 3], None, '']}, **texts)
  refused(tmp_path / 'a.safetensors', content)


def test_load_packed_missing_or_wrong_digest_raises(tmp_path):
  path = tmp_path / 'a.safetensors'
  header, body = split(forge_file(ARRAYS, {'w': [1, [3, 3], None, '']}))
  path.write_bytes(join_file(header, body))
  assert list(mq_jax.load_packed(path).params) == ['w']
  for change in ('', '0' * 64, header['__metadata__']['sha256'].upper()):
    texts = header['__metadata__'] | {'sha256': change}
    refused(path, join_file(header | {'__metadata__': texts}, body), 'SHA-256')
  for name in header['__metadata__']:
    texts = {k: v for k, v in header['__metadata__'].items() if k != name}
    refused(
      path,
      join_file(header | {'__metadata__': texts}, body),
      r'\(the (texts are|format is)',
    )


@pytest.mark.parametrize('dtype', ['BF16', 'F8_E4M3', 'F8_E5M2', 'F4', 'C64'])
def test_load_packed_dtype_without_numpy_equivalent_raises(tmp_path, dtype):
  header, body = split(forge_file(ARRAYS, {'w': [1, [3, 3], None, '']}))
  header['levels/w']['dtype'] = dtype
  for length in (8, 4, 2, 1):
    for shape in ([1], [2], [4], [8], [16]):
      header['levels/w'] |= {'shape': shape, 'data_offsets': [0, length]}
      header['codes/w']['data_offsets'] = [length, length + 2]
      cut = body[:length] + body[-2:]
      refused(tmp_path / 'a.safetensors', join_file(header, cut))


def make_huge_files():
  """Returns files that claim to contain terabytes."""
  good = forge_file(ARRAYS, {'w': [1, [3, 3], None, '']})
  header, body = split(good)

  def of(shape, offsets):
    tensor = {'dtype': 'F32', 'shape': shape, 'data_offsets': offsets}
    return join_file(header | {'levels/w': tensor}, body)

  return {
    'header': (2**42).to_bytes(PREFIX, 'little') + good[PREFIX:],
    'largest_header': b'\xff' * PREFIX + good[PREFIX:],
    'offsets': of([2**40], [0, 2**42]),
    'shape': of([2**40], [0, 8]),
    'overflowing_shape': of([2**62, 4], [0, 8]),
    'shape_of_nothing': of([2**62, 0], [0, 0]),
    'codes': forge_file(ARRAYS, {'w': [1, [2**43], None, '']}),
    'codes_of_a_grid': forge_file(ON_GRID, {'w': [1, [2**43], [-1, 2], '']}),
    'many_axes': forge_file(ARRAYS, {'w': [1, [2**20] * 500, None, '']}),
    'empty_codes': forge_file(
      ARRAYS | {'codes/w': CODES[:0]}, {'w': [8, [2**43, 0], None, '']}
    ),
  }


@pytest.mark.parametrize('name', make_huge_files())
def test_load_packed_forged_huge_sizes_allocate_nothing(tmp_path, name):
  content = make_huge_files()[name]
  path = tmp_path / 'a.safetensors'
  refused(path, b'not a file')  # so that imports are not measured
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  tracemalloc.start()
  try:
    refused(path, content)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert peak < 2**20
  assert after - before < 2**15  # of 1024 bytes each


# Damage.


def _flip(rng, content, _):
  damaged = bytearray(content)
  for place in rng.integers(0, len(content), rng.integers(1, 4)):
    damaged[place] ^= 1 << int(rng.integers(8))
  return bytes(damaged)


def _overwrite(rng, content, _):
  start, length = int(rng.integers(len(content))), int(rng.integers(1, 20))
  length = min(length, len(content) - start)
  return content[:start] + rng.bytes(length) + content[start + length :]


def _insert(rng, content, _):
  start = int(rng.integers(len(content) + 1))
  return content[:start] + rng.bytes(int(rng.integers(1, 20))) + content[start:]


def _delete(rng, content, _):
  start = int(rng.integers(len(content)))
  return content[:start] + content[start + int(rng.integers(1, 20)) :]


def _truncate(rng, content, _):
  return content[: int(rng.integers(len(content)))]


def _swap(rng, content, _):
  length = int(rng.integers(1, 40))
  a, b = sorted(rng.integers(0, len(content) - length, 2).tolist())
  b = max(b, min(a + length, len(content) - length))
  damaged = bytearray(content)
  damaged[a : a + length], damaged[b : b + length] = (
    content[b : b + length],
    content[a : a + length],
  )
  return bytes(damaged)


def _splice(rng, content, other):
  first, second = (content, other) if rng.random() < 0.5 else (other, content)
  cut = int(rng.integers(1, len(content)))
  resumed = cut if rng.random() < 0.5 else int(rng.integers(1, len(content)))
  return first[:cut] + second[resumed:]


def _two_names(rng, header):
  names = [name for name in header if name != '__metadata__']
  return [names[i] for i in rng.permutation(len(names))[:2]]


def _swap_names(rng, content, _):
  header, body = split(content)
  a, b = _two_names(rng, header)
  header[a], header[b] = header[b], header[a]
  return join_file(header, body)


def _swap_offsets(rng, content, _):
  header, body = split(content)
  a, b = _two_names(rng, header)
  key = ['data_offsets', 'shape', 'dtype'][int(rng.integers(3))]
  header[a][key], header[b][key] = header[b][key], header[a][key]
  return join_file(header, body)


def _swap_contents(rng, content, _):
  """Swaps the bytes of two tensors of the same length."""
  header, body = split(content)
  spans = [
    tuple(header[name]['data_offsets'])
    for name in header
    if name != '__metadata__'
  ]
  while True:
    (a, b), (c, d) = (spans[i] for i in rng.permutation(len(spans))[:2])
    if b - a == d - c:
      break
  moved = bytearray(body)
  moved[a:b], moved[c:d] = body[c:d], body[a:b]
  return join_file(header, bytes(moved))


def _change_digit(rng, content, _):
  length = int.from_bytes(content[:PREFIX], 'little')
  places = [
    i
    for i in range(PREFIX, PREFIX + length)
    if chr(content[i]).isascii() and chr(content[i]).isdigit()
  ]
  place = places[int(rng.integers(len(places)))]
  digit = str(rng.integers(10)).encode()
  return content[:place] + digit + content[place + 1 :]


def _change_text(rng, content, other):
  """Copies a string of another network, or changes one entry of a layer."""
  header, body = split(content)
  texts = header['__metadata__']
  if rng.random() < 0.2:
    names = sorted(texts)
    name = names[int(rng.integers(len(names)))]
    texts[name] = split(other)[0]['__metadata__'][name]
    return join_file(header, body)
  layers = json.loads(texts['layers'])
  name = sorted(layers)[int(rng.integers(len(layers)))]
  bits, shape, grid, quantizer = layers[name]
  changed = [
    [bits + 1, shape, grid, quantizer],
    [bits, shape[::-1], grid, quantizer],
    [bits, shape, [0, 1] if grid != [0, 1] else [-1, 2], quantizer],
    [bits, shape, grid, f'{quantizer}x'],
  ]
  layers[name] = changed[int(rng.integers(4))]
  texts['layers'] = json.dumps(layers, separators=(',', ':'), sort_keys=True)
  return join_file(header, body)


def _rename(rng, content, _):
  header, body = split(content)
  name = _two_names(rng, header)[0]
  folder = ['codes', 'levels', 'params', 'model_state'][int(rng.integers(4))]
  new = f'{folder}/{name.partition("/")[2]}'
  return join_file(
    {new if k == name else k: v for k, v in header.items()}, body
  )


def _reformat_header(rng, content, _):
  """Reorders and indents the header; the network stays the same."""
  header, body = split(content)
  names = [list(header)[i] for i in rng.permutation(len(header))]
  text = json.dumps(
    {name: header[name] for name in names},
    indent=[None, 1, 2][int(rng.integers(3))],
  ).encode()
  return len(text).to_bytes(PREFIX, 'little') + text + body


DAMAGES = (
  _flip,
  _overwrite,
  _insert,
  _delete,
  _truncate,
  _swap,
  _splice,
  _swap_names,
  _swap_offsets,
  _swap_contents,
  _change_digit,
  _change_text,
  _rename,
  _reformat_header,
)


def test_load_packed_damaged_file_raises_or_loads_same_network(saved):
  path, packed, content = saved
  other_path = path.with_name('other.safetensors')
  mq_jax.save_packed(other_path, network(seed=1))
  other = other_path.read_bytes()
  assert flatten_contents(network(seed=1)) != flatten_contents(packed)
  assert len(other) == len(content)

  def is_unchanged(damage, damaged):
    edits = DAMAGES[
      DAMAGES.index(_swap_names) : DAMAGES.index(_reformat_header)
    ]
    if damage not in edits or damage is _change_digit:
      return False
    return split(damaged) == before

  rng = np.random.default_rng(0)
  expected, before = flatten_contents(packed), split(content)
  count, same = 0, dict.fromkeys(DAMAGES, 0)
  tried = dict.fromkeys(DAMAGES, 0)
  fast = pathlib.Path('/dev/shm')
  if fast.is_dir() and os.access(fast, os.W_OK):
    path = fast / f'mq_jax_{os.getpid()}.safetensors'
  try:
    while count < 10_000:
      damage = DAMAGES[count % len(DAMAGES)]
      damaged = damage(rng, content, other)
      if damaged in (content, other) or is_unchanged(damage, damaged):
        continue
      count += 1
      tried[damage] += 1
      path.write_bytes(damaged)
      try:
        loaded = mq_jax.load_packed(path)
      except ValueError:
        continue
      contents = flatten_contents(loaded)
      assert contents == expected, (damage.__name__, count)
      same[damage] += 1
  finally:
    path.unlink()
  assert count == sum(tried.values()) == 10_000
  assert min(tried.values()) >= 10_000 // len(DAMAGES)
  # Changes of order and whitespace do not change the network.
  assert same.pop(_reformat_header) == tried[_reformat_header]
  assert sum(same.values()) < 10, same


def test_save_packed_all_forms_of_quantizer_round_trip(tmp_path):
  path = tmp_path / 'a.safetensors'
  w = np.random.default_rng(0).normal(size=(67, 5)).astype(np.float32)
  for quantizer in (
    mq_jax.dorefa(5),
    mq_jax.per(mq_jax.bwn(), axes=0),
    methods.lq_nets(2),
    methods.twn(),
  ):
    w_hat = jax.jit(lambda w, q=quantizer: mq_jax.quantize(q, w, q.init(w)))(w)
    packed = mq_jax.pack({'w': w_hat}, quantizer, quantized=True)
    mq_jax.save_packed(path, packed)
    loaded = mq_jax.load_packed(path)
    assert flatten_contents(loaded) == flatten_contents(packed)
    np.testing.assert_array_equal(
      mq_jax.unpack(loaded)['w'], mq_jax.unpack(packed)['w']
    )


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/clear_refs').exists(),
  reason='only Linux reports the peak of the memory since a moment',
)
@pytest.mark.parametrize('grid', [None, (-1, 1)])
def test_load_packed_needs_little_more_memory_than_the_file(tmp_path, grid):
  size = 2**28  # 64 MB of 2 bits.
  rng = np.random.default_rng(0)
  data = rng.integers(0, 4, (4, size // 4), np.uint8)
  data = np.bitwise_or.reduce(
    np.minimum(data, 2) << np.asarray([[0], [2], [4], [6]], np.uint8)
  )
  table = np.asarray([-1, 0, 1] if grid is None else [0.5], np.float32)
  kernel = PackedArray(data, table, (2**14, 2**14), 2, grid, 'a')
  path = tmp_path / 'large.safetensors'
  packed = mq_jax.PackedParams({'kernel': kernel}, {}, {})
  length = mq_jax.save_packed(path, packed)
  mq_jax.save_packed(
    tmp_path / 'small.safetensors',
    mq_jax.pack({'kernel': jnp.ones((3, 3))}, mq_jax.bwn()),
  )
  code = f"""
import pathlib, mq_jax

def memory(name):
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(1024 * int(l.split()[1]) for l in lines if l.startswith(name))

# The modules and buffers that any file needs come first.
mq_jax.load_packed({str(tmp_path / 'small.safetensors')!r})
pathlib.Path('/proc/self/clear_refs').write_text('5')  # Forgets the peak.
before = memory('VmRSS')
packed = mq_jax.load_packed({str(path)!r})
print(memory('VmHWM') - before, packed.params['kernel'].data[-1])
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, check=True, text=True
  )
  more, last = map(int, done.stdout.split())
  assert last == data[-1]
  assert length <= more <= 1.2 * length
