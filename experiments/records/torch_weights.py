"""Reads the weights of PyTorch networks."""

import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.errors import InvalidError, MissingError
from experiments.records import model_file, torch_file
from mq_jax import models


def load_torch(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads a .pth file of the authors; runs nothing that is in it.

  Depth and number of classes come from the names and shapes of the weights.

  Args:
    path: A state dict of a ResNet for CIFAR, saved by torch before 1.6 or with
      `_use_new_zipfile_serialization=False`.

  Returns:
    Parameters and batch statistics in float32; `metadata` has `network`,
    `num_classes`, and the `source` file's name and SHA-256.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If it is damaged, of another format, names anything but tensors,
      or holds another network.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingError(f'there is no file {path}')
  content = path.read_bytes()
  try:
    arrays = torch_file.read_state_dict(content)
    network, num_classes = _identify(arrays)
    variables = _convert(arrays, network, num_classes)
  except ValueError as error:
    raise InvalidError(f'{path}: {error}') from error
  metadata = {
    'network': network,
    'num_classes': str(num_classes),
    'source': path.name,
    'source_sha256': hashlib.sha256(content).hexdigest(),
  }
  return model_file.ModelFile(
    variables['params'], variables['batch_stats'], metadata
  )


def load_any(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads a model file, or the authors' .pth file, by the name's ending.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If it ends otherwise, is damaged or something else.
  """
  readers = {'.safetensors': model_file.load_model, '.pth': load_torch}
  suffix = pathlib.Path(path).suffix
  if suffix not in readers:
    raise InvalidError(f'{path}: the name must end in one of {sorted(readers)}')
  return readers[suffix](path)


def _identify(arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
  blocks = {
    int(match[1])
    for name in arrays
    if (match := re.fullmatch(r'layer1\.(\d+)\.conv1\.weight', name))
  }
  head = arrays.get('fc.weight', np.zeros(()))
  if not blocks or head.ndim != 2 or 'layer4.0.conv1.weight' in arrays:
    raise ValueError(
      'it holds no ResNet for CIFAR, of layer1 to layer3 and fc. Its tensors:'
      f' {_few(arrays)}'
    )
  return f'resnet{6 * len(blocks) + 2}', head.shape[0]


def _convert(
  arrays: Mapping[str, np.ndarray], network: str, num_classes: int
) -> Any:
  """Our variables from torch's, each name and shape compared."""
  net = models.resnet(int(network.removeprefix('resnet')), num_classes)
  expected = jax.eval_shape(
    lambda key, images: net.init(key, images, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
  )
  paths, treedef = jax.tree_util.tree_flatten_with_path(expected)
  names = {
    torch_name(jax.tree_util.keystr(path, simple=True, separator='/')): leaf
    for path, leaf in paths
  }
  # Count of batches: only torch's mean over all of them needs it.
  given = {n for n in arrays if not n.endswith('.num_batches_tracked')}
  if missing := names.keys() - given:
    raise ValueError(f'it looks like {network} but lacks {_few(missing)}')
  if unknown := given - names.keys():
    raise ValueError(f'{network} does not have its tensors {_few(unknown)}')
  return jax.tree_util.tree_unflatten(
    treedef,
    [_leaf(name, arrays[name], like.shape) for name, like in names.items()],
  )


def torch_name(path: str) -> str:
  """The authors' name of one of our variables.

  Args:
    path: Such as `params/stage2/block0/shortcut/kernel`.

  Returns:
    Such as `layer2.0.downsample.0.weight`.
  """
  name = path.split('/', 1)[1]
  for pattern, replacement in (
    (r'^stem_norm', 'bn1'),
    (r'^stem', 'conv1'),
    (r'^head', 'fc'),
    (r'^stage(\d)/block(\d+)', r'layer\1.\2'),
    (r'shortcut_norm', 'downsample.1'),
    (r'shortcut', 'downsample.0'),
    (r'norm(\d)', r'bn\1'),
    (r'(kernel|scale)$', 'weight'),
    (r'(mean|var)$', r'running_\1'),
    ('/', '.'),
  ):
    name = re.sub(pattern, replacement, name)
  return name


def _leaf(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """An array in our order of axes: (height, width, in, out) or (in, out)."""
  ours = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  if ours.shape != shape:
    raise ValueError(
      f'its tensor {name} becomes {ours.shape}, but the network has {shape}'
    )
  if ours.dtype.kind != 'f' or not np.isfinite(ours).all():
    raise ValueError(f'its tensor {name} has values that are no finite numbers')
  return np.ascontiguousarray(ours, np.float32)


def _few(names: Any, count: int = 4) -> str:
  names = sorted(names)
  rest = f' and {len(names) - count} more' if len(names) > count else ''
  return ', '.join(names[:count]) + rest
