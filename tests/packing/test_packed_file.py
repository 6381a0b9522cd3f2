"""Packed files: exact, whole or absent, and nothing else ever loads."""

import hashlib
import io
import json
import os
import pathlib
import pickle
import resource
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import mq_jax
from mq_jax import methods
from mq_jax.packing import packed_file
from mq_jax.packing.packed_array import is_packed, packed_leaves
from mq_jax.selection import named_leaves

METADATA = {'network': 'é "q" \n', 'accuracy': '91.50'}
PREFIX = 8  # bytes that say how long the header is
FORMAT = 'mq_jax packed 1'


def network(seed=0):
  """Weights with a grid, a table, tables of channels, and other leaves."""
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
    ('head/kernel', mq_jax.bwn(per_channel=True)),
  ]
  return mq_jax.pack(
    params, rules, quantized=True, model_state=state, metadata=METADATA
  )


def flat(packed):
  """All that there is, as dtypes, shapes, bytes and texts."""
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
  """A file on a fast disk where there is one, its network and its bytes."""
  path = tmp_path / 'net.safetensors'
  packed = network()
  size = mq_jax.save_packed(path, packed)
  content = path.read_bytes()
  assert size == len(content)
  return path, packed, content


def parted(content):
  """The header as a dict, and what follows it."""
  length = int.from_bytes(content[:PREFIX], 'little')
  return (
    json.loads(content[PREFIX : PREFIX + length]),
    content[PREFIX + length :],
  )


def whole(header, body, sort_keys=False):
  text = json.dumps(header, sort_keys=sort_keys).encode()
  return len(text).to_bytes(PREFIX, 'little') + text + body


def refused(path, content, match='changed'):
  path.write_bytes(content)
  with pytest.raises(ValueError, match=match) as error:
    mq_jax.load_packed(path)
  assert str(path) in str(error.value)
  assert f'({len(content)} bytes)' in str(error.value)


# Round trips.


def test_what_is_saved_is_loaded_bit_by_bit(saved):
  path, packed, _ = saved
  loaded = mq_jax.load_packed(path)
  assert flat(loaded) == flat(packed)
  assert loaded.metadata == METADATA | {
    'jax': jax.__version__, 'mq_jax': mq_jax.__version__,
  }  # fmt: skip
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


def test_what_is_loaded_is_saved_as_it_was(saved, tmp_path):
  """safetensors writes the texts in any order, so the files may differ."""
  path, packed, content = saved
  mq_jax.save_packed(path, mq_jax.load_packed(path))
  assert parted(path.read_bytes()) == parted(content)
  shuffled = packed._replace(
    params=dict(reversed(packed.params.items())),
    metadata=dict(reversed(packed.metadata.items())),
  )
  path = tmp_path / 'new' / 'b.safetensors'
  mq_jax.save_packed(path, shuffled)
  assert parted(path.read_bytes()) == parted(content)


def test_leaves_of_all_kinds(tmp_path):
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
  assert flat(mq_jax.load_packed(path)) == flat(packed)


def test_other_byte_orders_are_read_back(tmp_path):
  path = tmp_path / 'net.safetensors'
  state = {'x': np.arange(3, dtype='>f4'), 'y': np.array([1, 2], '>i8')}
  mq_jax.save_packed(path, network()._replace(model_state=state))
  loaded = mq_jax.load_packed(path).model_state
  for name, leaf in state.items():
    assert loaded[name].dtype == leaf.dtype.newbyteorder('=')
    np.testing.assert_array_equal(loaded[name], leaf)


def test_a_bare_weight_and_no_state(tmp_path):
  path = tmp_path / 'net.safetensors'
  packed = mq_jax.pack({'w': np.ones((2, 2), 'f4')}, mq_jax.bwn())
  mq_jax.save_packed(path, packed)
  assert flat(mq_jax.load_packed(path)) == flat(packed)
  assert mq_jax.load_packed(path).model_state == {}


def test_other_programs_read_names_that_say_what_they_are(saved):
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


# What is not written.


@pytest.mark.parametrize(
  ('leaf', 'match'),
  [
    (jnp.ones(2, jnp.bfloat16), 'model_state/x is bfloat16'),
    (jnp.ones(2, jnp.float8_e4m3fn), 'model_state/x is float8_e4m3fn'),
    (np.ones(2, complex), 'model_state/x is complex128'),
    (np.ones(2, np.longdouble), 'model_state/x is float128'),
    (np.array(['a']), 'model_state/x is <U1'),
    (np.array([None]), 'model_state/x is object'),
    (jax.random.key(0), 'model_state/x is key<fry>'),
  ],
)
def test_what_numpy_could_not_read_back(tmp_path, leaf, match):
  # What to do instead is in the message.
  with pytest.raises(ValueError, match=rf'{match}.* float32.*eqx\.filter'):
    mq_jax.save_packed(
      tmp_path / 'a.safetensors', network()._replace(model_state={'x': leaf})
    )
  assert not os.listdir(tmp_path)


def test_bfloat16_weights_are_refused(tmp_path):
  w = jnp.ones((2, 2), jnp.bfloat16)
  packed = mq_jax.pack({'w': w}, mq_jax.bwn())
  with pytest.raises(ValueError, match=r'levels/w is bfloat16.*float32'):
    mq_jax.save_packed(tmp_path / 'a.safetensors', packed)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('name', ['net.npz', 'net', 'net.safetensors.bak'])
def test_other_endings_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match=rf'{name}: .*end in \.safetensors'):
    mq_jax.save_packed(tmp_path / name, network())
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('where', ['params', 'model_state'])
def test_names_with_slashes_are_refused(tmp_path, where):
  """They would come back as other nested dicts."""
  packed = network()._replace(**{where: {'a': {'b/c': np.ones(2)}}})
  with pytest.raises(ValueError, match="'b/c' has a slash in it"):
    mq_jax.save_packed(tmp_path / 'a.safetensors', packed)
  w = np.ones((2, 2), 'f4')
  packed = mq_jax.pack({'b/c': w}, mq_jax.bwn())
  with pytest.raises(ValueError, match="'b/c' has a slash in it"):
    mq_jax.save_packed(tmp_path / 'a.safetensors', packed)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  saved, monkeypatch, call
):
  path, packed, content = saved

  def full(*_):
    raise OSError('no space left on device')

  if call == 'fsync':
    monkeypatch.setattr(os, 'fsync', full)
  else:
    monkeypatch.setattr(pathlib.Path, 'replace', full)
  with pytest.raises(OSError, match='no space'):
    mq_jax.save_packed(path, packed._replace(metadata={}))
  assert path.read_bytes() == content
  assert os.listdir(path.parent) == ['net.safetensors']


def test_what_is_written_is_whole_before_it_has_its_name(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'a.bin'
  seen = []

  def synced(descriptor):
    (partial,) = os.listdir(path.parent)
    seen.append((partial, os.fstat(descriptor).st_size))

  monkeypatch.setattr(os, 'fsync', synced)
  packed_file.write_atomic(path, b'12345')
  ((name, size),) = seen
  assert name != path.name
  assert size == 5
  assert os.listdir(path.parent) == ['a.bin']
  assert path.read_bytes() == b'12345'


def test_a_folder_in_the_place_of_a_file(tmp_path):
  path = tmp_path / 'a.safetensors'
  path.mkdir()
  with pytest.raises(FileNotFoundError, match=r'a\.safetensors is a folder'):
    mq_jax.load_packed(path)
  with pytest.raises(IsADirectoryError):
    mq_jax.save_packed(path, network())
  assert os.listdir(tmp_path) == ['a.safetensors']


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'none\.safetensors is not there'
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
def test_files_of_others_are_refused(tmp_path, name):
  refused(
    tmp_path / 'a.safetensors', foreign()[name], 'no file of mq_jax.save_packed'
  )


def test_the_format_that_is_not_ours_is_named(tmp_path):
  path = tmp_path / 'a.safetensors'
  refused(path, foreign()['other_texts'], "its format is 'pt'")
  refused(path, foreign()['next_version'], "its format is 'mq_jax packed 2'")


def test_a_file_cut_anywhere_is_refused(saved):
  path, _, content = saved
  for length in range(len(content)):
    refused(path, content[:length], 'cut short')


def test_a_file_that_goes_on_is_refused(saved):
  path, _, content = saved
  for more in (b'\0', b'\0' * 8, content):
    refused(path, content + more)


# Forged files: the digest is right.


def forged(arrays, layers, metadata='{}', **texts):
  """A file of these parts, made without mq_jax."""
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


def test_a_right_forgery_loads(tmp_path):
  """So that what follows is not refused for another reason."""
  path = tmp_path / 'a.safetensors'
  w = np.array([[1, -1, 1], [-1, 1, 1], [-1, 1, 1]]) / 2
  for arrays, grid in ((ARRAYS, None), (ON_GRID, [-1, 2])):
    path.write_bytes(forged(arrays, {'w': [1, [3, 3], grid, 'bwn']}))
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
  # Grids, with a table of two.
  'grid_with_table': {'w': [1, [3, 3], [-1, 2], '']},
  # Kinds of JSON.
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
  # Which layers there are.
  'none': {},
  'other': {'v': [1, [3, 3], None, '']},
  'one_more': {n: [1, [3, 3], None, ''] for n in 'vw'},
}


@pytest.mark.parametrize('name', LAYERS)
def test_forged_layers_are_refused(tmp_path, name):
  refused(tmp_path / 'a.safetensors', forged(ARRAYS, LAYERS[name]))


@pytest.mark.parametrize(
  'grid',
  ['[]', '[1]', '[0,1,5]', '0', 'false', 'true', '""', '"12"', '{}', '[0,0]',
   '[0,-1]', '[0.5,1]', '[0,1.0]', '[true,1]', '["0","1"]', '[null,1]',
   '[Infinity,1]', '[0,NaN]', '[0,1e999]', '[[0],[1]]', '[256,1]', '[-256,1]',
   f'[{10**30},1]', f'[0,{10**30}]', '[0,511]'],
)  # fmt: skip
def test_forged_grids_are_refused(tmp_path, grid):
  layers = f'{{"w":[1,[3,3],{grid},""]}}'
  refused(tmp_path / 'a.safetensors', forged(ON_GRID, layers))


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
def test_forged_arrays_are_refused(tmp_path, arrays):
  content = forged(arrays, {'w': [1, [3, 3], None, '']})
  refused(tmp_path / 'a.safetensors', content)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('form', ['table', 'tables', 'grid'])
def test_forged_levels_that_are_not_finite_are_refused(tmp_path, value, form):
  path = tmp_path / 'a.safetensors'
  grid = [-1, 2] if form == 'grid' else None
  levels = {
    'table': LEVELS,
    'tables': np.tile(LEVELS, (1, 3, 1)),
    'grid': np.tile(SCALE, (1, 3, 1)),
  }[form]
  layers = {'w': [1, [3, 3], grid, '']}
  arrays = ARRAYS | {'levels/w': levels}
  path.write_bytes(forged(arrays, layers))
  assert list(mq_jax.load_packed(path).params) == ['w']
  wrong = levels.copy()
  wrong.flat[-1] = value
  content = forged(ARRAYS | {'levels/w': wrong}, layers)
  refused(path, content, 'w has levels that are not finite')


@pytest.mark.parametrize('tables', [(), (1, 3), (3, 1)])
def test_forged_codes_beyond_the_table_are_refused(tmp_path, tables):
  """Looked up in a table, they would give its last value, or none."""
  path = tmp_path / 'a.safetensors'
  layers = {'w': [2, [3, 3], None, '']}
  levels = np.tile(np.array([-1, 0, 1], np.float32), (*tables, 1))
  codes = np.array([0b10_01_00_10, 0b01_00_10_01, 0b10], np.uint8)

  def content(data):
    return forged({'codes/w': data, 'levels/w': levels}, layers)

  path.write_bytes(content(codes))
  np.testing.assert_array_equal(
    mq_jax.unpack(mq_jax.load_packed(path))['w'],
    [[1, -1, 0], [1, 0, 1], [-1, 0, 1]],
  )
  for place in range(9):
    wrong = codes.copy()
    wrong[place // 4] |= 0b11 << 2 * (place % 4)
    refused(path, content(wrong), 'w has codes beyond its 3 levels')
  # One level for one bit, of which there is no code 1.
  arrays = ARRAYS | {'levels/w': np.ones((*tables, 1), np.float32)}
  layers = {'w': [1, [3, 3], None, '']}
  refused(path, forged(arrays, layers), 'w has codes beyond its 1 levels')


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
def test_forged_texts_are_refused(tmp_path, texts):
  content = forged(ARRAYS, {'w': [1, [3, 3], None, '']}, **texts)
  refused(tmp_path / 'a.safetensors', content)


def test_a_missing_or_wrong_digest_is_refused(tmp_path):
  path = tmp_path / 'a.safetensors'
  header, body = parted(forged(ARRAYS, {'w': [1, [3, 3], None, '']}))
  path.write_bytes(whole(header, body))
  assert list(mq_jax.load_packed(path).params) == ['w']
  for change in ('', '0' * 64, header['__metadata__']['sha256'].upper()):
    texts = header['__metadata__'] | {'sha256': change}
    refused(path, whole(header | {'__metadata__': texts}, body), 'SHA-256')
  for name in header['__metadata__']:
    texts = {k: v for k, v in header['__metadata__'].items() if k != name}
    refused(path, whole(header | {'__metadata__': texts}, body), r'\(it')


@pytest.mark.parametrize('dtype', ['BF16', 'F8_E4M3', 'F8_E5M2', 'F4', 'C64'])
def test_dtypes_that_numpy_lacks_are_refused(tmp_path, dtype):
  header, body = parted(forged(ARRAYS, {'w': [1, [3, 3], None, '']}))
  header['levels/w']['dtype'] = dtype
  for length in (8, 4, 2, 1):
    for shape in ([1], [2], [4], [8], [16]):
      header['levels/w'] |= {'shape': shape, 'data_offsets': [0, length]}
      header['codes/w']['data_offsets'] = [length, length + 2]
      cut = body[:length] + body[-2:]
      refused(tmp_path / 'a.safetensors', whole(header, cut))


def huge():
  """Files that speak of terabytes."""
  good = forged(ARRAYS, {'w': [1, [3, 3], None, '']})
  header, body = parted(good)

  def of(shape, offsets):
    tensor = {'dtype': 'F32', 'shape': shape, 'data_offsets': offsets}
    return whole(header | {'levels/w': tensor}, body)

  return {
    'header': (2**42).to_bytes(PREFIX, 'little') + good[PREFIX:],
    'largest_header': b'\xff' * PREFIX + good[PREFIX:],
    'offsets': of([2**40], [0, 2**42]),
    'shape': of([2**40], [0, 8]),
    'overflowing_shape': of([2**62, 4], [0, 8]),
    'shape_of_nothing': of([2**62, 0], [0, 0]),
    'codes': forged(ARRAYS, {'w': [1, [2**43], None, '']}),
    'codes_of_a_grid': forged(ON_GRID, {'w': [1, [2**43], [-1, 2], '']}),
    'many_axes': forged(ARRAYS, {'w': [1, [2**20] * 500, None, '']}),
    'empty_codes': forged(
      ARRAYS | {'codes/w': CODES[:0]}, {'w': [8, [2**43, 0], None, '']}
    ),
  }


@pytest.mark.parametrize('name', huge())
def test_a_file_that_speaks_of_terabytes_takes_none(tmp_path, name):
  content = huge()[name]
  path = tmp_path / 'a.safetensors'
  refused(path, b'not a file')  # imports come before
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


def _two(rng, header):
  names = [name for name in header if name != '__metadata__']
  return [names[i] for i in rng.permutation(len(names))[:2]]


def _swap_names(rng, content, _):
  header, body = parted(content)
  a, b = _two(rng, header)
  header[a], header[b] = header[b], header[a]
  return whole(header, body)


def _swap_offsets(rng, content, _):
  header, body = parted(content)
  a, b = _two(rng, header)
  key = ['data_offsets', 'shape', 'dtype'][int(rng.integers(3))]
  header[a][key], header[b][key] = header[b][key], header[a][key]
  return whole(header, body)


def _swap_contents(rng, content, _):
  """Two tensors' bytes, where their lengths are the same."""
  header, body = parted(content)
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
  return whole(header, bytes(moved))


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
  """The texts of another network, or a layer's entry with one changed."""
  header, body = parted(content)
  texts = header['__metadata__']
  if rng.random() < 0.2:
    names = sorted(texts)
    name = names[int(rng.integers(len(names)))]
    texts[name] = parted(other)[0]['__metadata__'][name]
    return whole(header, body)
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
  return whole(header, body)


def _rename(rng, content, _):
  header, body = parted(content)
  name = _two(rng, header)[0]
  folder = ['codes', 'levels', 'params', 'model_state'][int(rng.integers(4))]
  new = f'{folder}/{name.partition("/")[2]}'
  return whole({new if k == name else k: v for k, v in header.items()}, body)


def _lay_out_anew(rng, content, _):
  """Another order and other spaces in the header: the same network."""
  header, body = parted(content)
  names = [list(header)[i] for i in rng.permutation(len(header))]
  text = json.dumps(
    {name: header[name] for name in names},
    indent=[None, 1, 2][int(rng.integers(3))],
  ).encode()
  return len(text).to_bytes(PREFIX, 'little') + text + body


DAMAGES = (
  *(_flip, _overwrite, _insert, _delete, _truncate, _swap, _splice),
  *(_swap_names, _swap_offsets, _swap_contents, _change_digit, _change_text),
  *(_rename, _lay_out_anew),
)


def test_ten_thousand_damaged_files_are_refused_or_the_same(saved):
  path, packed, content = saved
  other_path = path.with_name('other.safetensors')
  mq_jax.save_packed(other_path, network(seed=1))
  other = other_path.read_bytes()
  assert flat(network(seed=1)) != flat(packed)
  assert len(other) == len(content)

  def is_no_edit(damage, damaged):
    edits = DAMAGES[DAMAGES.index(_swap_names) : DAMAGES.index(_lay_out_anew)]
    if damage not in edits or damage is _change_digit:
      return False
    return parted(damaged) == before

  rng = np.random.default_rng(0)
  expected, before = flat(packed), parted(content)
  count, same = 0, dict.fromkeys(DAMAGES, 0)
  tried = dict.fromkeys(DAMAGES, 0)
  fast = pathlib.Path('/dev/shm')
  if fast.is_dir() and os.access(fast, os.W_OK):
    path = fast / f'mq_jax_{os.getpid()}.safetensors'
  try:
    while count < 10_000:
      damage = DAMAGES[count % len(DAMAGES)]
      damaged = damage(rng, content, other)
      if damaged in (content, other) or is_no_edit(damage, damaged):
        continue
      count += 1
      tried[damage] += 1
      path.write_bytes(damaged)
      try:
        loaded = mq_jax.load_packed(path)
      except ValueError:
        continue
      assert flat(loaded) == expected, (damage.__name__, count)
      same[damage] += 1
  finally:
    path.unlink()
  assert count == sum(tried.values()) == 10_000
  assert min(tried.values()) >= 10_000 // len(DAMAGES)
  # Whatever changes no more than the order and the spaces is the same.
  assert same.pop(_lay_out_anew) == tried[_lay_out_anew]
  assert sum(same.values()) < 10, same


def test_methods_of_all_forms_come_back(tmp_path):
  path = tmp_path / 'a.safetensors'
  w = np.random.default_rng(0).normal(size=(67, 5)).astype(np.float32)
  for quantizer in (
    mq_jax.dorefa(5), mq_jax.bwn(per_channel=True, channel_axis=0),
    methods.lq_nets(2), methods.twn(),
  ):  # fmt: skip
    w_hat = jax.jit(lambda w, q=quantizer: mq_jax.quantize(q, w, q.init(w)))(w)
    packed = mq_jax.pack({'w': w_hat}, quantizer, quantized=True)
    mq_jax.save_packed(path, packed)
    loaded = mq_jax.load_packed(path)
    assert flat(loaded) == flat(packed)
    np.testing.assert_array_equal(
      mq_jax.unpack(loaded)['w'], mq_jax.unpack(packed)['w']
    )
