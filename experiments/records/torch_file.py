"""Reads .pth and .pt files with PyTorch, where it is installed."""

import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np

from experiments.common.errors import InvalidError, MissingError

# Keys under which training programs save the state dict.
_WRAPPERS = ('state_dict', 'model', 'net')


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a file that `torch.save` wrote; runs nothing in it.

  Args:
    path: File of any format of `torch.save`. The state dict may be nested under
      'state_dict', 'model' or 'net'.

  Returns:
    Arrays by name. Floating-point tensors are converted to float32.

  Raises:
    MissingError: If the file does not exist, or PyTorch is not installed.
    InvalidError: If the file is damaged or contains anything but tensors.
  """
  if not path.is_file():
    raise MissingError(f'There is no file {path}.')
  _check_zip(path)
  try:
    import torch
  except ImportError as error:
    raise MissingError(
      f'{path} can only be read with PyTorch, which is not installed. Where'
      ' PyTorch is installed, convert the file with\n'
      '  import torch, safetensors.torch\n'
      f'  safetensors.torch.save_file(torch.load({path.name!r},'
      " map_location='cpu', weights_only=True),"
      f' {path.stem + ".safetensors"!r})\n'
      "and use the new file. If the weights are nested, add ['state_dict']"
      ' after torch.load(…).'
    ) from error
  try:
    loaded = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    # The message of PyTorch explains how to turn its safety checks off.
    raise InvalidError(
      f'{path} contains objects other than tensors, or is not a file of'
      ' torch.save. Save model.state_dict() with torch.save.'
    ) from error
  except Exception as error:  # Damaged files raise errors of many classes.
    cause = str(error).partition('. ')[0][:200] or type(error).__name__
    raise InvalidError(
      f'{path}: torch.load cannot read the weights ({cause}). Copy the file'
      ' again, or save model.state_dict() again.'
    ) from error
  tensors = _state_dict(loaded)
  if not isinstance(tensors, dict):
    raise InvalidError(
      f'{path} contains a {type(tensors).__name__}, not tensors by name. Save'
      ' model.state_dict().'
    )
  size = path.stat().st_size
  arrays = {}
  for name, tensor in tensors.items():
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
      raise InvalidError(
        f'{path}: its value {str(name)[:99]!r} is a {type(tensor).__name__},'
        ' not a tensor. Save model.state_dict() alone.'
      )
    # A view can repeat its few values without limit.
    if tensor.numel() > size:
      raise InvalidError(
        f'{path}: its tensor {name} has {tensor.numel()} values, more than the'
        f' file has bytes ({size}). Save it without views.'
      )
    try:
      values = tensor.detach()
      arrays[name] = (
        values.float() if values.is_floating_point() else values
      ).numpy()
    except (RuntimeError, TypeError) as error:
      raise InvalidError(
        f'{path}: its tensor {name} cannot be converted to NumPy ({error}).'
        ' Save dense tensors of float32.'
      ) from error
  return arrays


def _check_zip(path: pathlib.Path) -> None:
  """Refuses an archive that would expand, or whose checksums differ.

  `torch.save` compresses nothing, and `torch.load` ignores the checksums.
  """
  size, damaged = path.stat().st_size, None
  try:
    with zipfile.ZipFile(path) as archive:
      expanded = sum(entry.file_size for entry in archive.infolist())
      if expanded <= size:
        damaged = archive.testzip()
  except Exception:  # Of another format, or damaged: torch.load will say so.
    return
  if damaged is not None:
    raise InvalidError(
      f'{path} is damaged: the checksum of its {damaged} differs. Copy the file'
      ' again, or save model.state_dict() again.'
    )
  if expanded > size:
    raise InvalidError(
      f'{path} has {size} bytes, but expands to {expanded}, which no file of'
      ' torch.save does. Save model.state_dict() again.'
    )


def _state_dict(loaded: Any) -> Any:
  """Returns the dict of tensors, which may be nested in others."""
  for _ in _WRAPPERS:  # Bounded: a pickled dict may contain itself.
    for key in _WRAPPERS:
      if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
        loaded = loaded[key]
  return loaded
