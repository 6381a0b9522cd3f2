"""Tests the import of PyTorch weights: safetensors, and a fake `torch`."""

import pickle
import subprocess
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from experiments.common import errors
from experiments.records import model_file, torch_weights
from mq_jax import models


def norm(rng, width):
  return {
    'weight': rng.normal(size=width),
    'bias': rng.normal(size=width),
    'running_mean': rng.normal(size=width),
    'running_var': rng.uniform(0.5, 2.0, width),
  }


def state_dict(blocks=1, num_classes=7):
  """Makes random weights with the names and the axis order of PyTorch."""
  rng = np.random.default_rng(0)
  state = {'conv1.weight': rng.normal(size=(16, 3, 3, 3))}
  state |= {f'bn1.{k}': v for k, v in norm(rng, 16).items()}
  before = 16
  for layer, width in ((1, 16), (2, 32), (3, 64)):
    for block in range(blocks):
      at = f'layer{layer}.{block}'
      state[f'{at}.conv1.weight'] = rng.normal(size=(width, before, 3, 3))
      state |= {f'{at}.bn1.{k}': v for k, v in norm(rng, width).items()}
      state[f'{at}.conv2.weight'] = rng.normal(size=(width, width, 3, 3))
      state |= {f'{at}.bn2.{k}': v for k, v in norm(rng, width).items()}
      if before != width:
        down = f'{at}.downsample'
        state[f'{down}.0.weight'] = rng.normal(size=(width, before, 1, 1))
        state |= {f'{down}.1.{k}': v for k, v in norm(rng, width).items()}
      before = width
  state['fc.weight'] = rng.normal(size=(num_classes, 64))
  state['fc.bias'] = rng.normal(size=num_classes)
  state = {name: array.astype(np.float32) for name, array in state.items()}
  return state | {'bn1.num_batches_tracked': np.array(5)}


def write(tmp_path, state, name='net.safetensors'):
  path = tmp_path / name
  arrays = {k: np.asarray(v, order='C') for k, v in state.items()}
  path.write_bytes(safetensors.numpy.save(arrays))
  return path


def test_load_any_converts_every_weight(tmp_path):
  state = state_dict(blocks=2)
  model = torch_weights.load_any(write(tmp_path, state))
  assert model.metadata['network'] == 'resnet14'
  assert model.metadata['num_classes'] == '7'
  assert model.metadata['source'] == 'net.safetensors'
  params, stats = model.params, model.batch_stats
  # Kernels: (out, in, height, width) in PyTorch, (height, width, in, out) here.
  places = {
    'conv1.weight': params['stem']['kernel'],
    'bn1.weight': params['stem_norm']['scale'],
    'bn1.running_var': stats['stem_norm']['var'],
    'fc.weight': params['head']['kernel'],
    'fc.bias': params['head']['bias'],
  }
  for layer in (1, 2, 3):
    for block in (0, 1):
      ours = params[f'stage{layer}'][f'block{block}']
      ours_stats = stats[f'stage{layer}'][f'block{block}']
      at = f'layer{layer}.{block}'
      pairs = [('conv1', 'bn1', 'norm1'), ('conv2', 'bn2', 'norm2')]
      for conv, theirs, normed in pairs:
        places[f'{at}.{conv}.weight'] = ours[conv]['kernel']
        places[f'{at}.{theirs}.weight'] = ours[normed]['scale']
        places[f'{at}.{theirs}.bias'] = ours[normed]['bias']
        places[f'{at}.{theirs}.running_mean'] = ours_stats[normed]['mean']
        places[f'{at}.{theirs}.running_var'] = ours_stats[normed]['var']
      if layer > 1 and block == 0:
        down = f'{at}.downsample'
        places[f'{down}.0.weight'] = ours['shortcut']['kernel']
        places[f'{down}.1.bias'] = ours['shortcut_norm']['bias']
        places[f'{down}.1.running_mean'] = ours_stats['shortcut_norm']['mean']
  for name, found in places.items():
    theirs = state[name]
    if theirs.ndim == 4:
      theirs = np.einsum('oihw->hwio', theirs)
    elif theirs.ndim == 2:
      theirs = np.einsum('oi->io', theirs)
    assert found.dtype == np.float32, name
    np.testing.assert_array_equal(found, theirs, err_msg=name)


def test_load_torch_weights_fit_network(tmp_path):
  model = torch_weights.load_torch(write(tmp_path, state_dict()))
  net = models.resnet(8, 7)
  x = jnp.ones((1, 8, 8, 3))
  expected = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
  given = {'params': model.params, 'batch_stats': model.batch_stats}
  assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, expected)


def test_load_torch_one_channel_network_is_imported(tmp_path):
  state = state_dict()
  state['conv1.weight'] = state['conv1.weight'][:, :1]
  model = torch_weights.load_torch(write(tmp_path, state))
  assert model.params['stem']['kernel'].shape == (3, 3, 1, 16)


def assert_same_model(got, want):
  jax.tree.map(np.testing.assert_array_equal, got[:2], want[:2])
  assert {leaf.dtype for leaf in jax.tree.leaves(got[:2])} == {np.dtype('f4')}


@pytest.mark.parametrize('prefix', ['module.', 'net.', 'module.model.'])
def test_load_any_common_prefix_is_dropped(tmp_path, prefix):
  state = state_dict()
  prefixed = {prefix + name: array for name, array in state.items()}
  got = torch_weights.load_any(write(tmp_path, prefixed, 'a.safetensors'))
  assert_same_model(got, torch_weights.load_any(write(tmp_path, state)))


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_load_any_other_precision_is_cast_to_float32(tmp_path, dtype):
  state = state_dict()
  floats = {k: v.astype(dtype) for k, v in state.items() if v.ndim}
  rounded = {k: v.astype(np.float32) for k, v in floats.items()}
  got = torch_weights.load_any(write(tmp_path, floats, 'a.safetensors'))
  assert_same_model(got, torch_weights.load_any(write(tmp_path, rounded)))


@pytest.mark.slow
def test_command_converts_safetensors(tmp_path):
  source = write(tmp_path, state_dict())
  destination = tmp_path / 'ours.safetensors'
  command = [sys.executable, '-m', 'experiments.import_torch', str(source)]
  done = subprocess.run(
    [*command, str(destination)], capture_output=True, text=True, check=True
  )
  # Stem 432, stages 4608 + 14336 + 57344, head 455, norms 2 · 336.
  assert 'resnet8, 7 classes, 77,847 parameters' in done.stdout
  converted = model_file.load_model(destination)
  direct = torch_weights.load_any(source)
  assert converted.metadata == direct.metadata
  assert_same_model(converted, direct)

  failed = subprocess.run(
    [*command, str(tmp_path / 'net.npz')], capture_output=True, text=True
  )
  assert failed.returncode == 1
  assert failed.stderr.startswith(f'{tmp_path / "net.npz"}: ')
  assert 'must end in .safetensors' in failed.stderr
  assert 'Traceback' not in failed.stderr
  assert not (tmp_path / 'net.npz').exists()


# A fake of the part of PyTorch that the import calls.


class Tensor(NamedTuple):
  array: np.ndarray

  def numel(self):
    return self.array.size

  def detach(self):
    return self

  def is_floating_point(self):
    return self.array.dtype.kind != 'i'

  def float(self):
    return Tensor(self.array.astype(np.float32))

  def numpy(self):
    if self.array.dtype == ml_dtypes.bfloat16:
      raise TypeError('Got unsupported ScalarType BFloat16')
    return self.array


@pytest.fixture
def torch(monkeypatch):
  """Installs a fake `torch`, whose `load` returns or raises `content`."""
  module = types.ModuleType('torch')

  def load(path, map_location, weights_only):
    assert path.is_file()
    assert (map_location, weights_only) == ('cpu', True)
    if isinstance(module.content, Exception):
      raise module.content
    return module.content

  module.Tensor, module.load = Tensor, load
  monkeypatch.setitem(sys.modules, 'torch', module)
  return module


def tensors(state, dtype='float32'):
  return {
    name: Tensor(array.astype(dtype) if array.dtype.kind == 'f' else array)
    for name, array in state.items()
  }


def torch_file(tmp_path, name='net.pth'):
  path = tmp_path / name
  path.write_bytes(b'x' * 300_000)
  return path


@pytest.mark.parametrize('name', ['net.pth', 'net.pt'])
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16', 'float64'])
def test_load_any_pth_is_read_by_torch(tmp_path, torch, name, dtype):
  torch.content = tensors(state_dict(), dtype)
  got = torch_weights.load_any(torch_file(tmp_path, name))
  rounded = {
    k: v.astype(dtype).astype(np.float32)
    for k, v in state_dict().items()
    if v.ndim
  }
  assert_same_model(got, torch_weights.load_any(write(tmp_path, rounded)))
  assert got.metadata['source'] == name


@pytest.mark.parametrize(
  'wrap',
  [
    lambda state: {'epoch': 3, 'state_dict': state},
    lambda state: {'model': state, 'optimizer': {'lr': 0.1}},
    lambda state: {'acc': 91.5, 'net': state},
    lambda state: {'state_dict': {'model': state}},
    lambda state: {'net': {f'module.{k}': v for k, v in state.items()}},
  ],
)
def test_load_torch_nested_state_dict_is_found(tmp_path, torch, wrap):
  torch.content = wrap(tensors(state_dict()))
  got = torch_weights.load_torch(torch_file(tmp_path))
  want = torch_weights.load_torch(write(tmp_path, state_dict()))
  assert_same_model(got, want)


def cyclic():
  state = {}
  state['model'] = state
  return state


@pytest.mark.parametrize(
  ('content', 'match'),
  [
    (
      pickle.UnpicklingError('weights_only=False'),
      'objects other than tensors',
    ),
    (RuntimeError('failed. Do this\nand that'), r'read the weights \(failed\)'),
    (EOFError(), r'cannot read the weights \(EOFError\)\. Copy the file again'),
    ([1, 2], r'contains a list, not tensors by name\. Save'),
    (Tensor(np.zeros(2)), 'contains a Tensor, not tensors'),
    ({'epoch': 3}, r"'epoch' is a int, not a tensor\. Save"),
    ({1: Tensor(np.zeros(2))}, "'1' is a Tensor"),
    (cyclic(), "'model' is a dict, not a tensor"),
    (
      {'w': Tensor(np.broadcast_to(np.float32(0), (2**20, 2**20)))},
      'w has 1099511627776 values, more than .* bytes',
    ),
    (
      {'w': Tensor(np.array(1, ml_dtypes.bfloat16))},
      'not a ResNet for CIFAR',
    ),
    ({}, 'not a ResNet for CIFAR'),
  ],
)
def test_load_torch_other_content_raises(tmp_path, torch, content, match):
  torch.content = content
  with pytest.raises(errors.InvalidError, match=f'net.pth.* {match}') as error:
    torch_weights.load_torch(torch_file(tmp_path))
  assert 'weights_only' not in str(error.value)
  assert '\n' not in str(error.value)


def test_load_torch_unconvertible_tensor_raises(tmp_path, torch):
  class Sparse(Tensor):
    def numpy(self):
      raise TypeError('layout')

  torch.content = {'w': Sparse(np.zeros(2))}
  # `float` returns a dense tensor of the fake.
  Sparse.float = lambda self: self
  with pytest.raises(
    errors.InvalidError, match=r'w cannot be .*\(layout\)\. Sa'
  ):
    torch_weights.load_torch(torch_file(tmp_path))


@pytest.mark.parametrize('name', ['net.pth', "it's.pt"])
def test_load_any_without_torch_explains_conversion(
  tmp_path, monkeypatch, name
):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(errors.MissingError, match='not installed') as error:
    torch_weights.load_any(torch_file(tmp_path, name))
  lines = str(error.value).splitlines()
  assert lines[1] == '  import torch, safetensors.torch'
  # The two lines of the message are Python. The test runs them with the fake.
  calls = []
  torch = types.ModuleType('torch')
  torch.load = lambda *args, **options: (args, options)
  monkeypatch.setitem(sys.modules, 'torch', torch)
  module = types.ModuleType('safetensors.torch')
  module.save_file = lambda *args: calls.append(args)
  monkeypatch.setitem(sys.modules, 'safetensors.torch', module)
  monkeypatch.setattr(safetensors, 'torch', module, raising=False)
  exec('\n'.join(line.strip() for line in lines[1:3]))
  options = {'map_location': 'cpu', 'weights_only': True}
  converted = name.rpartition('.')[0] + '.safetensors'
  assert calls == [(((name,), options), converted)]


SMALL = {
  'a': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b': np.array(7),
}


def without(name):
  return {k: v for k, v in state_dict().items() if k != name}


@pytest.mark.parametrize(
  ('state', 'match'),
  [
    (SMALL, 'not a ResNet for CIFAR.*Its tensors: a, b'),
    (without('fc.weight'), 'not a ResNet for CIFAR'),
    (without('conv1.weight'), 'not a ResNet for CIFAR'),
    (
      state_dict() | {'conv1.weight': np.zeros(16, np.float32)},
      'not a ResNet for CIFAR',
    ),
    (
      state_dict() | {'layer4.0.conv1.weight': np.zeros(1, np.float32)},
      r'four stages have \[1, 1, 1, 1\] basic blocks. Use resnet18, resnet34,',
    ),
    (
      without('layer2.0.downsample.0.weight'),
      'looks like resnet8 but lacks layer2.0.downsample.0.weight',
    ),
    (
      state_dict() | {'conv1.bias': np.zeros(16, np.float32)},
      'resnet8 does not have its tensors conv1.bias',
    ),
    (
      state_dict() | {'conv1.weight': np.zeros((16, 3, 5, 5), np.float32)},
      r'conv1.weight becomes \(5, 5, 3, 16\), .* \(3, 3, 3, 16\)',
    ),
    (
      state_dict() | {'fc.bias': np.full(7, np.nan, np.float32)},
      'fc.bias has values that are not finite',
    ),
    (
      state_dict() | {'fc.bias': np.full(7, 1e300)},
      'fc.bias has values that are not finite',
    ),
    (
      state_dict() | {'fc.bias': np.zeros(7, np.int64)},
      'fc.bias is int64',
    ),
    (
      state_dict() | {'fc.weight': np.zeros((0, 64), np.float32)},
      'not a ResNet for CIFAR',
    ),
    (
      {f'layer1.{i}.conv1.weight': np.zeros(1) for i in range(201)}
      | {'fc.weight': np.zeros((7, 64))},
      'not a ResNet for CIFAR.* and 198 more',
    ),
    (
      {f'module.{k}': v for k, v in state_dict().items()}
      | {'conv1.weight': np.zeros(1)},
      'not a ResNet for CIFAR',
    ),
    ({'params/w': np.zeros(1)}, 'model file of this project. Use it as it is'),
  ],
)
def test_load_torch_other_network_raises(tmp_path, state, match):
  path = write(tmp_path, state)
  with pytest.raises(
    errors.InvalidError, match=f'(?s)net.safetensors: .*{match}'
  ):
    torch_weights.load_torch(path)


def test_load_torch_files_of_authors_identifies_networks(data_dir):
  found = {}
  for path in sorted((data_dir / 'pretrained').glob('*.safetensors')):
    model = torch_weights.load_torch(path)
    found[path.stem] = model.metadata['network'], model.metadata['num_classes']
  assert found == {
    'MetaQuant-ResNet20-CIFAR10': ('resnet20', '10'),
    'MetaQuant-ResNet32-CIFAR10': ('resnet32', '10'),
    'MetaQuant-ResNet44-CIFAR10': ('resnet44', '10'),
    'MetaQuant-ResNet56-CIFAR100': ('resnet56', '100'),
  }


# The optimized network tests 10,000 images faster.
@pytest.mark.optimized
@pytest.mark.parametrize(
  ('name', 'test_set', 'labels_per_image', 'dataset', 'published'),
  [
    (
      'MetaQuant-ResNet20-CIFAR10',
      'cifar-10-batches-bin/test_batch.bin',
      1,
      'cifar10',
      9150,
    ),
    # The fine label follows the coarse one.
    (
      'MetaQuant-ResNet56-CIFAR100',
      'cifar-100-binary/test.bin',
      2,
      'cifar100',
      7122,
    ),
  ],
)
def test_load_torch_network_of_authors_has_published_accuracy(
  data_dir, name, test_set, labels_per_image, dataset, published
):
  raw = np.fromfile(data_dir / test_set, np.uint8)
  raw = raw.reshape(10000, labels_per_image + 3 * 32 * 32)
  images = raw[:, labels_per_image:].reshape(-1, 3, 32, 32)
  mean, std = {
    'cifar10': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    'cifar100': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
  }[dataset]
  images = (images.transpose(0, 2, 3, 1) / 255.0 - mean) / std
  labels = raw[:, labels_per_image - 1]
  model = torch_weights.load_torch(data_dir / f'pretrained/{name}.safetensors')
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  net = getattr(models, model.metadata['network'])(
    int(model.metadata['num_classes'])
  )

  @jax.jit
  def predict(images):
    return jnp.argmax(net.apply(variables, images, train=False), axis=-1)

  right = sum(
    int(np.sum(predict(batch.astype(np.float32)) == batch_labels))
    for batch, batch_labels in zip(
      np.split(images, 10), np.split(labels, 10), strict=True
    )
  )
  # Rounding may change one or two images.
  assert abs(right - published) <= 2
