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
from mq_jax import models, selection

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
    InvalidError: If the file is damaged, is not a state dict of tensors, or
      belongs to another network.
  """
  path = pathlib.Path(path)
  arrays, _ = _read(path)
  return _from_arrays(path, arrays)


def load_any(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads a model file or the state dict of a PyTorch network.

  The names of the arrays distinguish a model file from one of PyTorch.

  Raises:
    MissingError: As for `load_torch`.
    InvalidError: If the name of the file has another suffix, or the file is
      damaged or of another kind.
  """
  path = pathlib.Path(path)
  arrays, metadata = _read(path)
  is_safetensors = path.suffix == '.safetensors'
  if is_safetensors and any(map(model_file.is_model_array, arrays)):
    return model_file.from_arrays(path, arrays, metadata)
  return _from_arrays(path, arrays)


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads the arrays, by name, and the metadata of a file of weights."""
  if path.suffix == '.safetensors':
    return model_file.read_arrays(path)
  if path.suffix in ('.pt', '.pth'):
    return torch_file.read_state_dict(path), {}
  if path.is_dir():
    names = sorted(file.name for file in path.glob('*.safetensors'))
    files = f' It has {", ".join(names)}.' if names else ''
    raise InvalidError(f'{path} is a folder. Name a file of weights.{files}')
  raise InvalidError(
    f'{path}: the name of a file of weights must end in .pt, .pth or'
    ' .safetensors.'
  )


def _from_arrays(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> model_file.ModelFile:
  """Converts the state dict that a file contains."""
  try:
    arrays = _without_prefix(arrays)
    depth, num_classes, channels = _identify(arrays)
    variables = _convert(arrays, depth, num_classes, channels)
  except ValueError as error:
    raise InvalidError(f'{path}: {error}') from error
  metadata = {
    'network': f'resnet{depth}',
    'num_classes': str(num_classes),
    'source': path.name,
    'source_sha256': files.sha256(path),
  }
  return model_file.ModelFile(**variables, metadata=metadata)


def _without_prefix(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the part in front of `layer1`, such as `module.`, from all names."""
  ends = [name for name in arrays if name.endswith(_FIRST_BLOCK)]
  prefix = ends[0].removesuffix(_FIRST_BLOCK) if ends else ''
  if not all(name.startswith(prefix) for name in arrays):
    return dict(arrays)
  return {name.removeprefix(prefix): array for name, array in arrays.items()}


def _identify(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
  """Returns the depth, the number of classes and the channels of images."""
  if any(map(model_file.is_model_array, arrays)):
    raise ValueError('it is a model file of this project. Use it as it is.')
  blocks = {
    match[1]
    for name in arrays
    if (match := re.fullmatch(r'layer1\.(\d+)\.conv1\.weight', name))
  }
  stem = arrays.get('conv1.weight', np.zeros(()))
  head = arrays.get('fc.weight', np.zeros(()))
  has_ends = (stem.ndim, head.ndim) == (4, 2) and stem.size and head.size
  # 200 blocks per stage are the deepest ResNet for CIFAR, of 1202 layers.
  is_resnet = 1 <= len(blocks) <= 200 and has_ends
  if not is_resnet or 'layer4.0.conv1.weight' in arrays:
    raise ValueError(
      'it is not a ResNet for CIFAR, which has conv1, layer1 to layer3 and fc.'
      f' Its tensors: {_few(arrays)}. Save the state dict of such a network.'
    )
  return 6 * len(blocks) + 2, head.shape[0], stem.shape[1]


def _convert(
  arrays: Mapping[str, np.ndarray], depth: int, num_classes: int, channels: int
) -> Any:
  """Returns variables of our network; compares every name and shape."""
  net = models.resnet(depth, num_classes)
  # The shapes of weights do not depend on the size of images.
  image = jnp.zeros((1, 1, 1, channels))
  expected = jax.eval_shape(
    lambda: net.init(jax.random.key(0), image, train=False)
  )
  names = {
    _torch_name(path): leaf
    for path, leaf in selection.named_leaves(expected).items()
  }
  # PyTorch needs the count of batches only for averages over all of them.
  given = {n for n in arrays if not n.endswith('num_batches_tracked')}
  if missing := names.keys() - given:
    raise ValueError(
      f'it looks like resnet{depth} but lacks {_few(missing)}. Save the'
      ' complete state dict.'
    )
  if unknown := given - names.keys():
    raise ValueError(
      f'resnet{depth} does not have its tensors {_few(unknown)}. Remove them'
      ' from the state dict.'
    )
  return jax.tree.unflatten(
    jax.tree.structure(expected),
    [_leaf(name, arrays[name], like.shape) for name, like in names.items()],
  )


def _torch_name(path: str) -> str:
  """Returns the PyTorch name of a variable.

  It is `layer2.0.downsample.0.weight` for
  `params/stage2/block0/shortcut/kernel`.
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
      ' The layers must have the sizes of a ResNet for CIFAR.'
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
