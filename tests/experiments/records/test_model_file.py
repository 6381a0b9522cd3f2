"""Tests model files: exact, complete or absent; other files raise errors."""

import os
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.records import model_file, torch_weights
from tests.experiments.tiny import assert_same

METADATA = {'network': 'resnet20', 'accuracy': '91.50', 'comment': 'é "q" \n'}


def trees():
  rng = np.random.default_rng(0)
  params = {
    'stage1': {
      'block0': {'kernel': jnp.asarray(rng.normal(size=(3, 3, 2, 4)), 'f4')},
      'block10': {'kernel': np.array([[0.0, -0.0], [1e-45, -3.4e38]], 'f4')},
    },
    # A transposed array has another memory order.
    'head': {'kernel': np.arange(6.0).reshape(2, 3).T, 'bias': np.float16(2.5)},
  }
  return params, {'stem_norm': {'var': np.array([3, 4], np.int32)}}


def test_load_model_saved_returns_same_bits(tmp_path):
  params, batch_stats = trees()
  path = tmp_path / 'new' / 'net.safetensors'
  model_file.save_model(path, params, batch_stats, METADATA)
  for load in (model_file.load_model, torch_weights.load_any):
    model = load(path)
    assert_same(model.params, params)
    assert_same(model.batch_stats, batch_stats)
    assert model.metadata == METADATA


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('part', ['params', 'batch_stats'])
def test_model_file_not_finite_is_neither_written_nor_read(
  tmp_path, part, value
):
  arrays = {'params/a': np.zeros(2, 'f4'), 'batch_stats/b': np.ones(2, 'f2')}
  path = tmp_path / 'net.safetensors'
  (name,) = (name for name in arrays if name.startswith(part))
  arrays[name][1] = value
  safetensors.numpy.save_file(arrays, path)
  message = rf'{path}: the array {name} has values that are not finite'
  with pytest.raises(InvalidError, match=message):
    model_file.load_model(path)
  path.unlink()
  with pytest.raises(InvalidError, match=message):
    model_file.save_model(
      path,
      {'a': arrays['params/a']},
      {'b': jnp.asarray(arrays['batch_stats/b'])},
      {},
    )
  assert os.listdir(tmp_path) == []


def test_save_model_names_are_paths(tmp_path):
  params, batch_stats = trees()
  path = tmp_path / 'net.safetensors'
  model_file.save_model(path, params, batch_stats, METADATA)
  flat = safetensors.numpy.load_file(path)
  assert sorted(flat) == [
    'batch_stats/stem_norm/var',
    'params/head/bias',
    'params/head/kernel',
    'params/stage1/block0/kernel',
    'params/stage1/block10/kernel',
  ]
  np.testing.assert_array_equal(
    flat['params/head/kernel'], [[0, 3], [1, 4], [2, 5]]
  )


def test_load_model_without_statistics_returns_empty_dicts(tmp_path):
  path = tmp_path / 'net.safetensors'
  model_file.save_model(path, {'w': np.ones(2)}, {}, {})
  model = model_file.load_model(path)
  assert_same(model.params, {'w': np.ones(2)})
  assert model[1:] == ({}, {})


def test_save_model_disk_full_keeps_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'net.safetensors'
  model_file.save_model(path, {'w': np.ones(2)}, {}, {})
  before = path.read_bytes()

  def full(_):
    raise OSError('no space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='no space'):
    model_file.save_model(path, {'w': np.zeros(2)}, {}, {})
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ['net.safetensors']


@pytest.mark.parametrize(
  ('params', 'metadata', 'match'),
  [
    ({'w': [np.ones(2)]}, {}, r"\['w'\]\[0\] is not in nested dicts"),
    ({'a/b': np.ones(2)}, {}, "'a/b' must be text without a slash"),
    ({1: np.ones(2)}, {}, '1 must be text'),
    ({'w': jnp.ones(2, jnp.bfloat16)}, {}, 'params/w is bfloat16.*float32'),
    ({'w': np.ones(2)}, {'accuracy': 91.5}, "'accuracy': 91.5 is not text"),
    ({'w': np.ones(2)}, {'content_sha256': ''}, "'content_sha256' is taken"),
  ],
)
def test_save_model_content_that_cannot_load_raises(
  tmp_path, params, metadata, match
):
  with pytest.raises(ValueError, match=match):
    model_file.save_model(tmp_path / 'a.safetensors', params, {}, metadata)
  assert not os.listdir(tmp_path)


def test_model_file_other_suffix_raises(tmp_path):
  with pytest.raises(ValueError, match=r'net\.npz.*end in \.safetensors'):
    model_file.save_model(tmp_path / 'net.npz', {}, {}, {})
  with pytest.raises(ValueError, match=r'net\.h5.*\.pth.*\.safetensors'):
    torch_weights.load_any(tmp_path / 'net.h5')


@pytest.mark.parametrize('name', ['none.safetensors', 'none.pth'])
def test_load_any_missing_file_raises(tmp_path, name):
  with pytest.raises(FileNotFoundError, match=f'no file .*{name}'):
    torch_weights.load_any(tmp_path / name)


@pytest.mark.parametrize(
  'load', [model_file.load_model, torch_weights.load_any]
)
def test_load_cut_file_raises(tmp_path, load):
  path = tmp_path / 'net.safetensors'
  model_file.save_model(path, *trees(), METADATA)
  content = path.read_bytes()
  for length in [*range(0, 40), *range(40, len(content), 37), len(content) - 1]:
    path.write_bytes(content[:length])
    with pytest.raises(InvalidError, match=f'{length} bytes.*cut short'):
      load(path)


@pytest.mark.parametrize(
  'load', [model_file.load_model, torch_weights.load_any, model_file.digest]
)
def test_load_model_any_flipped_bit_raises_or_returns_same(tmp_path, load):
  path = tmp_path / 'net.safetensors'
  model_file.save_model(path, *trees(), METADATA)
  content, expected = path.read_bytes(), model_file.load_model(path)
  arrays = 8 + int.from_bytes(content[:8], 'little')
  rng = np.random.default_rng(0)
  places = [*range(arrays, len(content), 5), *rng.integers(0, arrays, 99)]
  for place in places:
    damaged = bytearray(content)
    damaged[place] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    if place >= arrays:
      with pytest.raises(InvalidError, match=r'content_sha256 does not match'):
        load(path)
      continue
    try:
      model = model_file.load_model(path)
    except InvalidError:
      continue
    # The bit belongs to spaces.
    assert_same(model[:2], expected[:2])


def test_load_model_file_of_other_program_needs_no_digest(tmp_path):
  path = tmp_path / 'net.safetensors'
  arrays = {'params/w': np.ones(2, 'f4')}
  safetensors.numpy.save_file(arrays, path, {'author': 'someone'})
  model = model_file.load_model(path)
  assert_same(model.params, {'w': arrays['params/w']})
  assert model.metadata == {'author': 'someone'}


def test_digest_equals_for_equal_weights(tmp_path):
  path = tmp_path / 'net.safetensors'
  model_file.save_model(path, *trees(), METADATA)
  first = model_file.digest(path)
  assert len(first) == 16
  # Another program, another order of arrays, and other texts.
  arrays = safetensors.numpy.load_file(path)
  backwards = dict(reversed(arrays.items()))
  safetensors.numpy.save_file(backwards, path, {'a': 'b'})
  assert model_file.digest(path) == first
  assert first in model_file.digests(path)
  # Logs of earlier versions have the digest of the bytes.
  assert files.sha256(path)[:16] in model_file.digests(path)
  arrays['params/head/bias'] = np.array(2.25, 'f2')
  safetensors.numpy.save_file(arrays, path)
  assert first not in model_file.digests(path)


def test_load_model_foreign_file_raises(tmp_path):
  path = tmp_path / 'net.safetensors'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('data.pkl', 'x')
  with pytest.raises(ValueError, match=r'zip archive.*import_torch'):
    model_file.load_model(path)
  path.write_bytes(b'\x80\x02}.')
  with pytest.raises(ValueError, match=r'pickle.*import_torch'):
    model_file.load_model(path)
  path.write_bytes(b'{"weights": [1, 2, 3]}')
  with pytest.raises(ValueError, match='not a safetensors file'):
    model_file.load_model(path)
  path.write_bytes(safetensors.numpy.save({'layer.weight': np.ones(2)}))
  with pytest.raises(ValueError, match=r"'layer\.weight'.*import_torch"):
    model_file.load_model(path)
  clash = {'params/a': np.ones(2), 'params/a/b': np.ones(2)}
  path.write_bytes(safetensors.numpy.save(clash))
  with pytest.raises(InvalidError, match=r'net\.safetensors: .*another path'):
    model_file.load_model(path)
  path.write_bytes(safetensors.numpy.save({'batch_stats/x': np.ones(2)}))
  with pytest.raises(ValueError, match='no arrays under params/'):
    model_file.load_model(path)
