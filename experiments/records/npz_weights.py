"""Reads a MobileNetV2 of TensorFlow from an .npz file of quantized kernels.

Each layer NAME has NAME/kernel (uint8 codes; axes out, height, width, in, or 1,
height, width, channels in depthwise convolutions), NAME/scale, NAME/zero and
NAME/bias; its kernel is (codes − zero) · scale. The batch norms were folded
into the layers before the kernels were quantized. A norm of scale 1, mean 0,
variance 1 − ε and the bias of its layer is the same function.

The names of the layers are those of slim: Conv, expanded_conv/depthwise,
expanded_conv/project, expanded_conv_1/expand, ..., Conv_1,
Logits/Conv2d_1c_1x1.
"""

import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from experiments.common.errors import InvalidError, MissingError
from experiments.records.model_file import FOLDED, NORMS
from experiments.records.torch_names import MOBILENET_RULES, few, torch_name
from mq_jax.models import BatchNorm

# What distinguishes the network from one of torchvision: its padding, pixels of
# (x − 128) / 128, and folded norms.
METADATA = {'padding': 'same', 'pixels': 'half', NORMS: FOLDED}
_HEAD = 'Logits/Conv2d_1c_1x1'
# The type of each array of a layer.
_PARTS = {'kernel': 'u1', 'scale': 'f4', 'zero': 'i4', 'bias': 'f4'}
# Codes of 8 bits are hardly compressible.
_MOST_EXPANSION = 20


def _layers() -> dict[str, str]:
  """Returns our path of each layer that has a norm."""
  ours = {'Conv': 'stem', 'Conv_1': 'last'}
  for block in range(17):
    name = f'expanded_conv_{block}' if block else 'expanded_conv'
    kinds = ('expand', 'depthwise', 'project')[0 if block else 1 :]
    ours |= {f'{name}/{kind}': f'block{block}/{kind}' for kind in kinds}
  return ours


_LAYERS = _layers()


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz file; executes nothing in it.

  Raises:
    MissingError: If the file does not exist.
    InvalidError: If the file is damaged.
  """
  if not path.is_file():
    raise MissingError(f'There is no file {path}.')
  size = path.stat().st_size
  try:
    with zipfile.ZipFile(path) as archive:
      expanded = sum(entry.file_size for entry in archive.infolist())
    if expanded <= _MOST_EXPANSION * size:
      with np.load(path, allow_pickle=False) as content:
        return dict(content)
  except Exception as error:  # Damaged files raise errors of many classes.
    cause = str(error).partition('\n')[0][:200] or type(error).__name__
    raise InvalidError(
      f'{path} is damaged or is not a file of numpy.savez ({cause}). Copy it'
      ' again.'
    ) from error
  raise InvalidError(
    f'{path} has {size} bytes, but expands to {expanded}, which no file of'
    ' 8-bit codes does. Save its arrays again.'
  )


def state_dict(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the tensors of torchvision's MobileNetV2 for the arrays of a file.

  The result has the names and the order of axes of PyTorch.

  Raises:
    ValueError: If the arrays are not those of a MobileNetV2.
  """
  wanted = {f'{layer}/{part}' for layer in (*_LAYERS, _HEAD) for part in _PARTS}
  if missing := wanted - arrays.keys():
    raise ValueError(
      'it is not a MobileNetV2 of TensorFlow with the layers Conv,'
      f' expanded_conv to expanded_conv_16, Conv_1 and {_HEAD}: it lacks'
      f' {few(missing)}. Its arrays: {few(arrays)}. Use such a file, or the'
      ' state dict of a PyTorch network as .safetensors.'
    )
  if unknown := arrays.keys() - wanted:
    raise ValueError(
      f'a MobileNetV2 of TensorFlow does not have its arrays {few(unknown)}.'
      ' Remove them from the file.'
    )
  head, bias = _kernel_and_bias(arrays, _HEAD)
  variables = {
    'params/head/kernel': head[:, :, 0, 0],
    'params/head/bias': bias,
  }
  for layer, path in _LAYERS.items():
    kernel, bias = _kernel_and_bias(arrays, layer)
    variables |= {
      f'params/{path}/kernel': kernel,
      f'params/{path}_norm/scale': np.ones_like(bias),
      f'params/{path}_norm/bias': bias,
      f'batch_stats/{path}_norm/mean': np.zeros_like(bias),
      f'batch_stats/{path}_norm/var': np.full_like(bias, 1 - BatchNorm.epsilon),
    }
  return {
    torch_name(path, MOBILENET_RULES): array
    for path, array in variables.items()
  }


def _kernel_and_bias(
  arrays: Mapping[str, np.ndarray], layer: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the kernel, `(out, in, height, width)`, and the bias, `(out,)`."""
  parts = {part: arrays[f'{layer}/{part}'] for part in _PARTS}
  for part, dtype in _PARTS.items():
    if parts[part].dtype != np.dtype(dtype):
      raise ValueError(
        f'its {layer}/{part} is {parts[part].dtype}, not {np.dtype(dtype)}.'
        ' Save codes as uint8, zeros as int32, and scales and biases as'
        ' float32.'
      )
  codes, scale, zero, bias = (parts[part] for part in _PARTS)
  if codes.ndim != 4 or scale.shape != (1,) or zero.shape != (1,):
    raise ValueError(
      f'its {layer} has a kernel of shape {codes.shape}, a scale of shape'
      f' {scale.shape} and a zero of shape {zero.shape}. Use 4 axes, and one'
      ' scale and one zero per layer.'
    )
  kernel = (codes.astype(np.float32) - zero[0]) * scale[0]
  axes = (3, 0, 1, 2) if layer.endswith('depthwise') else (0, 3, 1, 2)
  return kernel.astype(np.float32).transpose(axes), bias
