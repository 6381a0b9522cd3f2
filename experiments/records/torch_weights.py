"""Imports the weights of PyTorch networks."""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.records import model_file, torch_file
from mq_jax import models

_SUFFIXES = ('.pt', '.pth', '.safetensors')
_FIRST_BLOCK = 'layer1.0.conv1.weight'


def load_torch(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads the state dict of a PyTorch network.

  Depth and number of classes come from the names and shapes of the weights. A
  prefix that all names have in common, such as `module.`, is dropped.

  Args:
    path: File of a ResNet for CIFAR: .safetensors, as `safetensors.torch`
      writes it, or .pth or .pt, as `torch.save` writes it, which needs PyTorch.
      A .pth file may have the state dict under 'state_dict', 'model' or 'net'.

  Returns:
    Parameters and batch statistics in float32. `metadata` has `network`,
    `num_classes`, and the name and SHA-256 of the file as `source` and
    `source_sha256`.

  Raises:
    MissingError: If the file does not exist, or PyTorch is needed and missing.
    InvalidError: If the file is damaged, is not a state dict of tensors, or is
      one of another network.
  """
  path = pathlib.Path(path)
  _check_suffix(path)
  if path.suffix == '.safetensors':
    arrays, _ = model_file.read_arrays(path)
  else:
    arrays = torch_file.read_state_dict(path)
  try:
    arrays = _without_prefix(arrays)
    network, num_classes = _identify(arrays)
    variables = _convert(arrays, network, num_classes)
  except ValueError as error:
    raise InvalidError(f'{path}: {error}') from error
  metadata = {
    'network': network,
    'num_classes': str(num_classes),
    'source': path.name,
    'source_sha256': files.sha256(path),
  }
  return model_file.ModelFile(
    variables['params'], variables['batch_stats'], metadata
  )


def load_any(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads a model file or the state dict of a PyTorch network.

  The names of the arrays tell a model file from a PyTorch .safetensors file.

  Raises:
    MissingError: As for `load_torch`.
    InvalidError: If the name of the file has another suffix, or the file is
      damaged or of another kind.
  """
  path = pathlib.Path(path)
  _check_suffix(path)
  if path.suffix == '.safetensors':
    arrays, _ = model_file.read_arrays(path)
    if any(map(model_file.is_own_name, arrays)):
      return model_file.load_model(path)
  return load_torch(path)


def _check_suffix(path: pathlib.Path) -> None:
  if path.suffix not in _SUFFIXES:
    raise InvalidError(
      f'{path}: the name of a file of weights must end in .pt, .pth or'
      ' .safetensors.'
    )


def _without_prefix(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the part in front of `layer1`, such as `module.`, from all names."""
  ends = [name for name in arrays if name.endswith(_FIRST_BLOCK)]
  prefix = ends[0].removesuffix(_FIRST_BLOCK) if ends else ''
  if not all(name.startswith(prefix) for name in arrays):
    return dict(arrays)
  return {name.removeprefix(prefix): array for name, array in arrays.items()}


def _identify(arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
  """Returns the name of the network and its number of classes."""
  if any(map(model_file.is_own_name, arrays)):
    raise ValueError('it is a model file of this project. Use it as it is.')
  blocks = {
    match[1]
    for name in arrays
    if (match := re.fullmatch(r'layer1\.(\d+)\.conv1\.weight', name))
  }
  head = arrays.get('fc.weight', np.zeros(()))
  # 200 blocks per stage are the deepest ResNet for CIFAR, of 1202 layers.
  is_resnet = 1 <= len(blocks) <= 200 and head.ndim == 2 and head.size
  if not is_resnet or 'layer4.0.conv1.weight' in arrays:
    raise ValueError(
      'it is not a ResNet for CIFAR, which has layer1 to layer3 and fc. Its'
      f' tensors: {_few(arrays)}. Save the state dict of such a network.'
    )
  return f'resnet{6 * len(blocks) + 2}', head.shape[0]


def _convert(
  arrays: Mapping[str, np.ndarray], network: str, num_classes: int
) -> Any:
  """Returns variables of our network; compares every name and shape."""
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
  # PyTorch needs the count of batches only for averages over all of them.
  given = {n for n in arrays if not n.endswith('num_batches_tracked')}
  if missing := names.keys() - given:
    raise ValueError(
      f'it looks like {network} but lacks {_few(missing)}. Save the complete'
      ' state dict.'
    )
  if unknown := given - names.keys():
    raise ValueError(
      f'{network} does not have its tensors {_few(unknown)}. Remove them from'
      ' the state dict.'
    )
  return jax.tree_util.tree_unflatten(
    treedef,
    [_leaf(name, arrays[name], like.shape) for name, like in names.items()],
  )


def torch_name(path: str) -> str:
  """Returns the PyTorch name of a variable.

  Args:
    path: Path of the variable, such as
      `params/stage2/block0/shortcut/kernel`.

  Returns:
    The name, such as `layer2.0.downsample.0.weight`.
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
  """Returns float32 with axes (height, width, in, out) or (in, out)."""
  ours = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  if ours.shape != shape:
    raise ValueError(
      f'its tensor {name} becomes {ours.shape}, but the network has {shape}.'
      " Only networks with the layers of the authors' can be imported."
    )
  if not jnp.issubdtype(ours.dtype, jnp.floating):
    raise ValueError(f'its tensor {name} is {ours.dtype}. Save it as float32.')
  with np.errstate(over='ignore'):
    ours = np.ascontiguousarray(ours, np.float32)
  if not np.isfinite(ours).all():
    raise ValueError(
      f'its tensor {name} has values that are not finite in float32. Save the'
      ' weights of a network that has not diverged.'
    )
  return ours


def _few(names: Iterable[str], count: int = 4) -> str:
  names = sorted(names)
  rest = f' and {len(names) - count} more' if len(names) > count else ''
  return ', '.join(names[:count]) + rest
