"""Import of .pth files, from hand-written ones and from the authors'."""

import collections
import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.records import torch_file, torch_weights
from mq_jax import models

MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}}


class Storage:
  def __init__(self, key, kind, array, view):
    self.pid = ('storage', kind, key, 'cuda:0', array.size, view)


class Tensor:
  """What torch pickles a tensor as: a call, its storage by name."""

  def __init__(self, rebuild, *arguments):
    self.call = rebuild, arguments

  def __reduce__(self):
    return self.call


class Pickler(pickle.Pickler):
  def persistent_id(self, obj):
    return obj.pid if isinstance(obj, Storage) else None


def fake_torch():
  """As much of torch as a pickle of tensors names."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in ('FloatStorage', 'LongStorage', 'ByteStorage'):
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))

  def _rebuild_tensor_v2():
    pass

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  torch._utils = utils
  return {'torch': torch, 'torch._utils': utils}


def legacy(arrays, wrap=lambda state: state, offset=0, view=None):
  """A file as torch before 1.6 wrote it, storages in another order."""
  modules = fake_torch()
  torch = modules['torch']
  kinds = {'f': torch.FloatStorage, 'i': torch.LongStorage}
  kinds['u'] = torch.ByteStorage
  state = collections.OrderedDict()
  storages = {}
  for index, (name, array) in enumerate(arrays.items()):
    storages[str(1000 - index)] = array
    strides = tuple(s // array.itemsize for s in array.strides)
    storage = Storage(str(1000 - index), kinds[array.dtype.kind], array, view)
    state[name] = Tensor(
      torch._utils._rebuild_tensor_v2,
      *(storage, offset, array.shape, strides),
      *(False, collections.OrderedDict()),
    )
  state._metadata = collections.OrderedDict({'': {'version': 1}})
  stream = io.BytesIO()
  with mock.patch.dict(sys.modules, modules):
    for part in (MAGIC, 1001, MACHINE, wrap(state), sorted(storages)):
      Pickler(stream, protocol=2).dump(part)
  for key in sorted(storages):
    array = storages[key]
    stream.write(array.size.to_bytes(8, 'little'))
    stream.write(array.tobytes(order='A'))
  return stream.getvalue()


def norm(rng, width):
  return {
    'weight': rng.normal(size=width),
    'bias': rng.normal(size=width),
    'running_mean': rng.normal(size=width),
    'running_var': rng.uniform(0.5, 2.0, width),
  }


def state_dict(blocks=1, num_classes=7):
  """Random numbers by torch's names, in torch's order of axes."""
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


def write(tmp_path, content):
  path = tmp_path / 'net.pth'
  path.write_bytes(content)
  return path


def refused(tmp_path, content, match):
  path = write(tmp_path, content)
  with pytest.raises(ValueError, match=f'(?s)net.pth: .*{match}'):
    torch_weights.load_torch(path)


def test_every_number_has_its_place(tmp_path):
  state = state_dict(blocks=2)
  model = torch_weights.load_any(write(tmp_path, legacy(state)))
  assert model.metadata['network'] == 'resnet14'
  assert model.metadata['num_classes'] == '7'
  assert model.metadata['source'] == 'net.pth'
  params, stats = model.params, model.batch_stats
  # Kernels: (out, in, height, width) there, (height, width, in, out) here.
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


def test_the_network_takes_them(tmp_path):
  model = torch_weights.load_torch(write(tmp_path, legacy(state_dict())))
  net = models.resnet(8, 7)
  x = jnp.ones((1, 8, 8, 3))
  expected = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
  given = {'params': model.params, 'batch_stats': model.batch_stats}
  assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, expected)


def test_tensors_may_lie_in_any_order(tmp_path):
  state = state_dict()
  state['fc.weight'] = np.asarray(state['fc.weight'], order='F')
  model = torch_weights.load_torch(write(tmp_path, legacy(state)))
  np.testing.assert_array_equal(
    model.params['head']['kernel'], state['fc.weight'].T
  )


def test_command_converts_without_torch(tmp_path):
  source = write(tmp_path, legacy(state_dict()))
  destination = tmp_path / 'net.safetensors'
  command = [sys.executable, '-m', 'experiments.import_torch', str(source)]
  done = subprocess.run(
    [*command, str(destination)], capture_output=True, text=True, check=True
  )
  # Stem 432, stages 4608 + 14336 + 57344, head 455, norms 2 · 336.
  assert 'resnet8, 7 classes, 77,847 parameters' in done.stdout
  converted = torch_weights.load_any(destination)
  direct = torch_weights.load_any(source)
  assert converted.metadata == direct.metadata
  jax.tree.map(np.testing.assert_array_equal, converted[:2], direct[:2])

  failed = subprocess.run(
    [*command, str(tmp_path / 'net.npz')], capture_output=True, text=True
  )
  assert failed.returncode == 1
  assert failed.stderr.startswith('import_torch: ')
  assert 'must end in .safetensors' in failed.stderr
  assert 'Traceback' not in failed.stderr


class Call:
  """Pickles as a call, which a trusting reader makes."""

  def __init__(self, function, *arguments):
    self.reduced = function, arguments

  def __reduce__(self):
    return self.reduced


@pytest.mark.parametrize('part', range(5))
def test_nothing_in_a_pickle_is_run(tmp_path, part):
  proof = tmp_path / 'proof'
  parts = [MAGIC, 1001, MACHINE, {}, []]
  parts[part] = Call(os.mkdir, str(proof))
  content = b''.join(pickle.dumps(p, protocol=2) for p in parts)
  refused(tmp_path, content, r'asks for \w+\.mkdir.*nothing of it was run\.')
  assert not proof.exists()
  # The same file does harm elsewhere: the test would notice.
  stream = io.BytesIO(content)
  for _ in range(part + 1):
    pickle.load(stream)
  assert proof.exists()


@pytest.mark.parametrize(
  'function', [eval, getattr, io.open, subprocess.Popen, np.load, len]
)
def test_other_names_are_refused(tmp_path, function):
  content = pickle.dumps(Call(function, 'x'), protocol=2)
  refused(tmp_path, content, f'asks for .*{function.__name__}')


def test_a_whole_module_is_refused(tmp_path):
  content = legacy(state_dict(), wrap=lambda s: {'net': Call(Storage, s)})
  refused(tmp_path, content, r'Storage, which no state dict.*state_dict\(\)')


def test_stand_ins_cannot_be_changed():
  # BUILD, as __setstate__ or as attributes, on each thing a file may name.
  for name in (
    b'ccollections\nOrderedDict\n',
    b'ctorch._utils\n_rebuild_tensor_v2\n',
    b'ctorch\nFloatStorage\n',
  ):
    for state in (
      b'}X\x01\x00\x00\x00xK\x01s',
      b'N}X\x01\x00\x00\x00xK\x01s\x86',
    ):
      content = b'\x80\x02' + name + state + b'b.'
      # Not 'torch.save did not write it', which is what comes after BUILD.
      with pytest.raises(ValueError, match='magic number cannot be read'):
        torch_file.read_state_dict(content)
  assert not hasattr(torch_file._StateDict, 'x')


def test_zip_files_are_told_what_to_do(tmp_path):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w') as archive:
    archive.writestr('archive/data.pkl', b'x')
  refused(tmp_path, stream.getvalue(), '_use_new_zipfile_serialization=False')


@pytest.mark.parametrize(
  ('content', 'match'),
  [
    (b'', 'magic number cannot be read'),
    (b'\x89PNG\r\n\x1a\n', 'not a .pth file'),
    (pickle.dumps([1, 2], protocol=2), 'torch.save did not write it'),
    (pickle.dumps(MAGIC, 2) + pickle.dumps(1000, 2), 'version is not 1001'),
    (
      b''.join(
        pickle.dumps(p, 2) for p in (MAGIC, 1001, {'little_endian': False})
      ),
      'little-endian',
    ),
    (
      # A memo of 4 billion places, which CPython would allocate.
      b'\x80\x02K\x01r\xff\xff\xff\xff.',
      'numbers an object 4294967295',
    ),
  ],
)
def test_foreign_files_are_refused(tmp_path, content, match):
  refused(tmp_path, content, match)


def test_wrapped_state_dict_is_refused(tmp_path):
  content = legacy(state_dict(), wrap=lambda s: {'state_dict': s, 'epoch': 3})
  refused(tmp_path, content, r'not a state dict.*state_dict\(\) itself')


SMALL = {
  'a': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b': np.array(7),
}


def test_small_state_dict_is_read_exactly():
  arrays = torch_file.read_state_dict(legacy(SMALL))
  assert list(arrays) == ['a', 'b']
  for name, array in SMALL.items():
    assert arrays[name].dtype == array.dtype
    np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_a_file_cut_anywhere_is_refused():
  content = legacy(SMALL)
  for length in range(len(content)):
    with pytest.raises(ValueError):
      torch_file.read_state_dict(content[:length])
  with pytest.raises(ValueError, match='1 bytes follow'):
    torch_file.read_state_dict(content + b'\0')


@given(st.integers(0, len(legacy(SMALL)) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_arrays_or_a_value_error(position, change):
  content = bytearray(legacy(SMALL))
  content[position] ^= change
  try:
    arrays = torch_file.read_state_dict(bytes(content))
  except ValueError:
    return
  # Reading a view beyond the file's memory would crash here.
  assert {array.tobytes() for array in arrays.values()}


def test_views_beyond_the_storage_are_refused():
  with pytest.raises(ValueError, match='tensor a is empty or not inside'):
    torch_file.read_state_dict(legacy(SMALL, offset=1))


def test_unknown_storages_are_refused():
  with pytest.raises(ValueError, match=r'asks for torch\.ByteStorage'):
    torch_file.read_state_dict(legacy({'a': np.zeros(2, np.uint8)}))
  with pytest.raises(ValueError, match=r'storage that is none of .* or a view'):
    torch_file.read_state_dict(legacy(SMALL, view=('1000', 0, 2)))


def without(name):
  return {k: v for k, v in state_dict().items() if k != name}


@pytest.mark.parametrize(
  ('state', 'match'),
  [
    (SMALL, 'no ResNet for CIFAR.*Its tensors: a, b'),
    (without('fc.weight'), 'no ResNet for CIFAR'),
    (
      state_dict() | {'layer4.0.conv1.weight': np.zeros(1, np.float32)},
      'no ResNet for CIFAR',
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
      'fc.bias has values that are no finite numbers',
    ),
    (
      state_dict() | {'fc.bias': np.zeros(7, np.int64)},
      'fc.bias has values that are no finite numbers',
    ),
  ],
)
def test_other_networks_are_refused(tmp_path, state, match):
  refused(tmp_path, legacy(state), match)


def test_authors_files_name_their_networks(data_dir):
  found = {}
  for path in sorted((data_dir / 'pretrained').glob('*.pth')):
    model = torch_weights.load_torch(path)
    found[path.stem] = model.metadata['network'], model.metadata['num_classes']
  assert found == {
    'MetaQuant-ResNet20-CIFAR10': ('resnet20', '10'),
    'MetaQuant-ResNet32-CIFAR10': ('resnet32', '10'),
    'MetaQuant-ResNet44-CIFAR10': ('resnet44', '10'),
    'MetaQuant-ResNet56-CIFAR100': ('resnet56', '100'),
  }


def test_authors_resnet20_has_its_accuracy(data_dir):
  raw = np.fromfile(data_dir / 'cifar-10-batches-bin/test_batch.bin', np.uint8)
  raw = raw.reshape(10000, 1 + 3 * 32 * 32)
  images = raw[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) / 255.0
  images = (images - (0.4914, 0.4822, 0.4465)) / (0.2023, 0.1994, 0.2010)
  model = torch_weights.load_torch(
    data_dir / 'pretrained/MetaQuant-ResNet20-CIFAR10.pth'
  )
  variables = {'params': model.params, 'batch_stats': model.batch_stats}

  @jax.jit
  def predict(images):
    logits = models.resnet20().apply(variables, images, train=False)
    return jnp.argmax(logits, axis=-1)

  right = sum(
    int(np.sum(predict(batch.astype(np.float32)) == labels))
    for batch, labels in zip(
      np.split(images, 10), np.split(raw[:, 0], 10), strict=True
    )
  )
  # 91.50 % was published; rounding may turn a picture or two over.
  assert abs(right - 9150) <= 2
