"""Imports the weights of networks that other programs trained."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.records import (
  model_file,
  npz_weights,
  torch_file,
  torch_names,
)
from experiments.records.torch_names import Found, few
from mq_jax import selection


def load_torch(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads the weights of a network that was trained by another program.

  The network comes from the names and shapes of the weights: its depth or
  width, and its number of classes. A prefix that all names have in common, such
  as `module.`, is dropped.

  Args:
    path: File of a ResNet for CIFAR, or of torchvision's resnet18, resnet34,
      resnet50 or mobilenet_v2: .safetensors, as `safetensors.torch` writes it,
      or .pth or .pt, as `torch.save` writes it, which needs PyTorch. A .pth
      file may have the state dict under 'state_dict', 'model' or 'net'. An .npz
      file has the MobileNetV2 of TensorFlow that `npz_weights` describes.

  Returns:
    Parameters and batch statistics in float32. `metadata` has `network`,
    `num_classes`, and the name and SHA-256 of the file as `source` and
    `source_sha256`. For networks for ImageNet it also has `pixels`, and for
    mobilenet_v2 `width` and `padding`: the values of these keys of a
    configuration.

  Raises:
    MissingError: If the file does not exist, or PyTorch is needed and missing.
    InvalidError: If the file is damaged, is not a state dict of tensors, or
      belongs to another network.
  """
  path = pathlib.Path(path)
  arrays, _ = _read(path)
  return _from_arrays(path, arrays)


def load_any(path: str | os.PathLike[str]) -> model_file.ModelFile:
  """Reads a model file or a file of `load_torch`.

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
  if path.suffix == '.npz':
    return npz_weights.read_npz(path), {}
  raise InvalidError(
    f'{path}: the name of a file of weights must end in .npz, .pt, .pth or'
    ' .safetensors.'
  )


def _from_arrays(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> model_file.ModelFile:
  """Converts the weights that a file contains."""
  is_npz = path.suffix == '.npz'
  try:
    if any(map(model_file.is_model_array, arrays)):
      raise ValueError('it is a model file of this project. Use it as it is.')
    if is_npz:
      arrays = npz_weights.state_dict(arrays)
    arrays = torch_names.without_prefix(arrays)
    found = torch_names.identify(arrays)
    variables = _convert(arrays, found)
  except ValueError as error:
    raise InvalidError(f'{path}: {error}') from error
  metadata = found.metadata | (npz_weights.METADATA if is_npz else {})
  source = {'source': path.name, 'source_sha256': files.sha256(path)}
  return model_file.ModelFile(**variables, metadata=metadata | source)


def _convert(arrays: Mapping[str, np.ndarray], found: Found) -> Any:
  """Returns variables of our network; compares every name and shape."""
  # The shapes of weights do not depend on the size of images.
  image = jnp.zeros((1, 1, 1, found.channels))
  expected = jax.eval_shape(
    lambda: found.net.init(jax.random.key(0), image, train=False)
  )
  names = {
    torch_names.torch_name(path, found.rules): leaf
    for path, leaf in selection.named_leaves(expected).items()
  }
  network = found.metadata['network']
  # PyTorch needs the count of batches only for averages over all of them.
  given = {n for n in arrays if not n.endswith('num_batches_tracked')}
  if missing := names.keys() - given:
    raise ValueError(
      f'it looks like {network} but lacks {few(missing)}. Save the complete'
      ' state dict.'
    )
  if unknown := given - names.keys():
    raise ValueError(
      f'{network} does not have its tensors {few(unknown)}. Remove them from'
      ' the state dict.'
    )
  return jax.tree.unflatten(
    jax.tree.structure(expected),
    [
      _leaf(name, arrays[name], like.shape, network)
      for name, like in names.items()
    ],
  )


def _leaf(
  name: str, array: np.ndarray, shape: tuple[int, ...], network: str
) -> np.ndarray:
  """Returns float32 with axes (height, width, in, out) or (in, out)."""
  ours = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  if ours.shape != shape:
    raise ValueError(
      f'its tensor {name} becomes {ours.shape}, but {network} has {shape}.'
      f' The layers must have the sizes of {network}.'
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
