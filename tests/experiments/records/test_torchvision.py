"""Tests the import of torchvision's networks: tensors in, its logits out.

`tests.models.make_torch_reference` wrote the logits with PyTorch.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experiments.common import errors
from experiments.records import torch_names, torch_weights
from mq_jax import models
from mq_jax.selection import named_leaves
from tests.models import make_torch_reference

REFERENCE = json.loads(make_torch_reference.PATH.read_text())


def state_dict(name):
  """Returns the tensors that the logits of the reference belong to."""
  return {
    key: make_torch_reference.tensor(key, shape)
    for key, shape in REFERENCE['tensors'][name].items()
  }


def write(tmp_path, state):
  path = tmp_path / 'net.safetensors'
  path.write_bytes(safetensors.numpy.save(state))
  return path


@pytest.mark.parametrize(
  ('name', 'cases'),
  [
    ('mobilenet_v2', (0, 1)),
    ('resnet18', (0, 1)),
    pytest.param('resnet50', (1,), marks=pytest.mark.slow),
  ],
)
def test_load_torch_network_gives_logits_of_torchvision(tmp_path, name, cases):
  model = torch_weights.load_torch(write(tmp_path, state_dict(name)))
  expected = {'network': name, 'num_classes': '5', 'pixels': 'imagenet'}
  if name == 'mobilenet_v2':
    expected |= {'width': '1.0', 'padding': 'torch'}
  source = {key: model.metadata[key] for key in ('source', 'source_sha256')}
  assert model.metadata == expected | source
  net = getattr(models, name)(5)
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
  for case in cases:
    x = make_torch_reference.images(make_torch_reference.SHAPES[case])
    wanted = np.array(REFERENCE['logits'][name][case])
    # A difference of 1e-4 of the largest logit is rounding of float32.
    atol = 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(
      apply(variables, jnp.asarray(x)), wanted, rtol=0, atol=atol
    )


def changed(name, **tensors):
  return state_dict(name) | {
    key.replace('__', '.'): value for key, value in tensors.items()
  }


def scaled(width):
  """Returns the tensors of a MobileNetV2 of another width, filled with 1."""
  net = models.mobilenet_v2(3, width=width)
  like = jax.eval_shape(
    lambda: net.init(jax.random.key(0), jnp.zeros((1, 9, 9, 3)), train=False)
  )
  rules = torch_names.identify(state_dict('mobilenet_v2')).rules
  state = {}
  for path, leaf in named_leaves(like).items():
    *sides, channels, features = (1, *leaf.shape)
    shape = (features, channels, *sides[1:]) if sides else (features,)
    state[torch_names.torch_name(path, rules)] = np.ones(shape, np.float32)
  return state


@pytest.mark.parametrize('width', [0.35, 1.4])
def test_load_torch_mobilenet_width_is_found(tmp_path, width):
  state = scaled(width)
  model = torch_weights.load_torch(write(tmp_path, state))
  assert model.metadata['width'] == str(width)
  assert model.metadata['num_classes'] == '3'


@pytest.mark.parametrize(
  ('name', 'tensors', 'match'),
  [
    (
      'mobilenet_v2',
      {'features__0__0__weight': np.zeros((33, 3, 3, 3), np.float32)},
      r'channels \[33, 16, .* of no width multiplier',
    ),
    (
      'mobilenet_v2',
      {'features__3__conv__1__0__weight': np.zeros((144, 1, 5, 5), np.float32)},
      r'becomes \(5, 5, 1, 144\), but mobilenet_v2 has \(3, 3, 1, 144\)',
    ),
    (
      'mobilenet_v2',
      {'extra__weight': np.zeros(1, np.float32)},
      'mobilenet_v2 does not have its tensors extra.weight',
    ),
    (
      'resnet18',
      {'conv1__weight': np.zeros((64, 3, 3, 3), np.float32)},
      r'becomes \(3, 3, 3, 64\), but resnet18 has \(7, 7, 3, 64\)',
    ),
    (
      'resnet18',
      {'layer4__2__conv1__weight': np.zeros(1, np.float32)},
      r'stages have \[2, 2, 2, 3\] basic blocks. Use resnet18, resnet34',
    ),
  ],
)
def test_load_torch_other_layers_raise(tmp_path, name, tensors, match):
  path = write(tmp_path, changed(name, **tensors))
  with pytest.raises(errors.InvalidError, match=match):
    torch_weights.load_torch(path)
