"""Tests the import of a MobileNetV2 of TensorFlow from quantized kernels."""

import zipfile

import numpy as np
import pytest

from experiments.common import errors
from experiments.records import npz_weights, torch_weights

HEAD = 'Logits/Conv2d_1c_1x1'
# Expansion, channels, number of blocks, from Table 2 of the paper, at width 0.1
# and above: channels are multiples of 8, and at least 8.
GROUPS = [(1, 8, 1), (6, 8, 2), (6, 8, 3), (6, 8, 4), (6, 16, 3), (6, 16, 3)]
WIDTH = 0.1


def layer(rng, *shape):
  features = shape[3] if shape[0] == 1 and shape[1] == 3 else shape[0]
  return {
    'kernel': rng.integers(0, 256, shape).astype(np.uint8),
    'scale': np.array([0.01], np.float32),
    'zero': np.array([120], np.int32),
    'bias': rng.normal(size=features).astype(np.float32),
  }


def network(classes=3):
  """Makes a network of width 0.1, with the names and axes of the file."""
  rng = np.random.default_rng(0)
  layers = {'Conv': layer(rng, 8, 3, 3, 3)}
  before, index = 8, 0
  for expansion, channels, count in [*GROUPS, (6, 32, 1)]:
    for _ in range(count):
      at = f'expanded_conv_{index}' if index else 'expanded_conv'
      hidden = before * expansion
      if index:
        layers[f'{at}/expand'] = layer(rng, hidden, 1, 1, before)
      layers[f'{at}/depthwise'] = layer(rng, 1, 3, 3, hidden)
      layers[f'{at}/project'] = layer(rng, channels, 1, 1, hidden)
      before, index = channels, index + 1
  layers['Conv_1'] = layer(rng, 1280, 1, 1, before)
  layers[HEAD] = layer(rng, classes, 1, 1, 1280)
  return {
    f'{name}/{part}': array
    for name, parts in layers.items()
    for part, array in parts.items()
  }


def write(tmp_path, arrays):
  path = tmp_path / 'net.npz'
  np.savez(path, **arrays)
  return path


def test_load_any_npz_places_every_kernel_and_bias(tmp_path):
  arrays = network()
  model = torch_weights.load_any(write(tmp_path, arrays))
  assert model.metadata.items() >= {
    ('network', 'mobilenet_v2'),
    ('num_classes', '3'),
    ('width', str(WIDTH)),
    ('padding', 'same'),
    ('pixels', 'half'),
    ('source', 'net.npz'),
  }
  places = {'Conv': ('stem',), 'Conv_1': ('last',)}
  for i in range(17):
    at = f'expanded_conv_{i}' if i else 'expanded_conv'
    for kind in ('expand', 'depthwise', 'project')[i == 0 :]:
      places[f'{at}/{kind}'] = (f'block{i}', kind)
  for name, path in places.items():
    params, stats = model.params, model.batch_stats
    for key in path[:-1]:
      params, stats = params[key], stats[key]
    kernel = (arrays[f'{name}/kernel'].astype(np.float32) - 120) * np.float32(
      0.01
    )
    order = 'ihwc->hwic' if name.endswith('depthwise') else 'ohwi->hwio'
    found = params[path[-1]]['kernel']
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.einsum(order, kernel), name)
    norm, means = params[f'{path[-1]}_norm'], stats[f'{path[-1]}_norm']
    np.testing.assert_array_equal(norm['bias'], arrays[f'{name}/bias'])
    np.testing.assert_array_equal(means['mean'], 0)
    # A norm divides by √(var + ε), which is 1.
    np.testing.assert_allclose(means['var'] + 1e-5, 1, rtol=1e-7)
    np.testing.assert_array_equal(norm['scale'], 1)
  head = model.params['head']
  np.testing.assert_array_equal(head['bias'], arrays[f'{HEAD}/bias'])
  codes = arrays[f'{HEAD}/kernel'][:, 0, 0].astype(np.float32)
  np.testing.assert_array_equal(
    head['kernel'], ((codes - 120) * np.float32(0.01)).T
  )


def without(name):
  return {key: value for key, value in network().items() if key != name}


@pytest.mark.parametrize(
  ('arrays', 'match'),
  [
    ({'w': np.zeros(2)}, 'not a MobileNetV2 of TensorFlow .* Its arrays: w'),
    (without('Conv_1/bias'), 'it lacks Conv_1/bias'),
    (network() | {'extra': np.zeros(1)}, 'does not have its arrays extra'),
    (
      network() | {'Conv/kernel': np.zeros((8, 3, 3, 3))},
      'its Conv/kernel is float64, not uint8',
    ),
    (
      network() | {'Conv/scale': np.zeros(8, np.float32)},
      r'its Conv has .* a scale of shape \(8,\)',
    ),
    (
      network() | {'Conv/bias': np.zeros(9, np.float32)},
      r'becomes \(9,\), but mobilenet_v2 has \(8,\)',
    ),
    (
      network() | {'Conv/bias': np.full(8, np.nan, np.float32)},
      'values that are not finite',
    ),
    ({'w': np.array([{}], object)}, 'is damaged or is not a file of numpy'),
  ],
)
def test_load_any_npz_of_other_network_raises(tmp_path, arrays, match):
  with pytest.raises(errors.InvalidError, match=f'net.npz.*{match}') as error:
    torch_weights.load_any(write(tmp_path, arrays))
  assert '\n' not in str(error.value)


def test_load_any_damaged_npz_raises(tmp_path):
  arrays = network()
  path = write(tmp_path, arrays)
  content = path.read_bytes()
  at = content.index(arrays['Conv/kernel'].tobytes())
  flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
  for damaged in (content[:1000], b'', flipped):
    path.write_bytes(damaged)
    with pytest.raises(errors.InvalidError, match=r'net.npz is damaged'):
      torch_weights.load_any(path)


def test_load_any_npz_that_expands_raises(tmp_path):
  path = tmp_path / 'net.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('w.npy', bytes(10**6))
  with pytest.raises(
    errors.InvalidError, match='bytes, but expands to 1000000'
  ):
    torch_weights.load_any(path)


def test_load_any_missing_npz_raises(tmp_path):
  with pytest.raises(errors.MissingError, match='There is no file'):
    torch_weights.load_any(tmp_path / 'net.npz')


def test_layers_name_each_convolution_once():
  paths = list(npz_weights._LAYERS.values())
  assert len(paths) == len(set(paths)) == 52
