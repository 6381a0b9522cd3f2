"""Model files: the parameters, batch statistics and origin of one network.

The format is safetensors: a header of names, shapes and text, then the
numbers. Reading a file executes nothing. The names are paths such as
`params/stage1/block0/conv1/kernel` and `batch_stats/stem_norm/mean`. The header
contains a SHA-256 of everything else, so that a damaged file is refused. Files
of other programs have none and are read as they are.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from experiments.common import files, sealed
from experiments.common.errors import InvalidError, MissingError
from mq_jax import selection
from mq_jax.files import content_digest, safetensors_content, write_atomic

# Keys of the metadata of a file whose norms are a scale and a shift, or whose
# norms contain the scales of kernels, and their value.
NORMS, SCALES, FOLDED = 'norms', 'scales', 'folded'
_FIRST_BYTES = {
  b'PK': 'a zip archive, such as torch.save and numpy.savez write',
  b'\x80\x02': 'a pickle, such as old versions of torch.save write',
  b'\x1f\x8b': 'a gzip archive',
}
_IMPORT = 'python -m experiments.import_torch SOURCE.pth DEST.safetensors'


class ModelFile(NamedTuple):
  """The content of a model file.

  Attributes:
    params: Nested dicts of arrays, the network's `params`.
    batch_stats: Nested dicts of arrays, the network's `batch_stats`.
    metadata: Text by name, such as `network`, `dataset` and `accuracy`.
  """

  params: dict[str, Any]
  batch_stats: dict[str, Any]
  metadata: dict[str, str]


def digest(path: str | os.PathLike[str]) -> str:
  """Returns the 16 digits by which run logs identify the weights in a file.

  The digits of a safetensors file depend on its arrays alone, not on its header
  or the order of the arrays.

  Raises:
    MissingError: If the file does not exist.
    InvalidError: If it is a damaged safetensors file.
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix == '.safetensors':
    return content_digest(read_arrays(path)[0], '')[:16]
  return files.sha256(path)[:16]


def digests(path: str | os.PathLike[str]) -> frozenset[str]:
  """Returns all digits by which run logs identify the weights in a file.

  Older logs identify a file by the SHA-256 of all of its bytes.

  Raises:
    MissingError: If the file does not exist.
    InvalidError: If it is a damaged safetensors file.
  """
  path = pathlib.Path(path).expanduser()
  return frozenset((digest(path), files.sha256(path)[:16]))


def save_model(
  path: str | os.PathLike[str],
  params: Mapping[str, Any],
  batch_stats: Mapping[str, Any],
  metadata: Mapping[str, str],
) -> None:
  """Writes a model file completely or not at all, in place of any older one.

  Args:
    path: File with the suffix .safetensors. Missing folders are created.
    params: Nested dicts of arrays.
    batch_stats: Nested dicts of arrays; may be empty.
    metadata: Text by name.

  Raises:
    InvalidError: If `path` has another suffix, or an array is not finite.
    ValueError: If a container is not a dict, a name contains a slash, an array
      is not of a NumPy type (bfloat16, say), `metadata` is not text, or one of
      its names is that of the digest.
  """
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    raise InvalidError(
      f'{path}: the name of a model file must end in .safetensors'
    )
  for key, value in metadata.items():
    if not isinstance(key, str) or not isinstance(value, str):
      raise ValueError(f'metadata {key!r}: {value!r} is not text. Use str().')
  if sealed.split(metadata)[1] is not None:
    raise ValueError(f'metadata {sealed.KEY!r} is taken. Use another name.')
  arrays = _flatten({'params': params, 'batch_stats': batch_stats})
  _check_finite(path, arrays)
  digest_ = {sealed.KEY: content_digest(arrays, dict(metadata))}
  write_atomic(path, safetensors_content(arrays, {**metadata, **digest_}))


def load_model(path: str | os.PathLike[str]) -> ModelFile:
  """Reads a file that `save_model` wrote.

  Raises:
    MissingError: If the file does not exist.
    InvalidError: If the file is damaged or of another kind, or an array is not
      finite.
  """
  return from_arrays(path, *read_arrays(path))


def from_arrays(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  metadata: dict[str, str],
) -> ModelFile:
  """Returns the content of a model file from its arrays and its metadata.

  Args:
    path: Path of the file, for the message.
    arrays: Arrays by name, such as `params/stem/kernel`.
    metadata: Text by name.

  Raises:
    InvalidError: If the file at `path` is of another kind, or an array is not
      finite.
  """
  for name in arrays:
    if not is_model_array(name):
      raise InvalidError(
        f'{path} has an array {name!r}, but the names in a model file start'
        f' with params/ or batch_stats/. If {name!r} is a name of PyTorch,'
        f' convert the file with {_IMPORT}'
      )
  try:
    trees = {'params': {}, 'batch_stats': {}} | selection.nested(arrays)
  except ValueError as error:
    raise InvalidError(f'{path}: {error} Save the network again.') from error
  if not trees['params']:
    raise InvalidError(
      f'{path} has no arrays under params/. Save the network again with its'
      ' parameters.'
    )
  _check_finite(path, arrays)
  return ModelFile(**trees, metadata=metadata)


def is_model_array(name: str) -> bool:
  """Returns True if an array of this name belongs to a model file."""
  return name.startswith(('params/', 'batch_stats/'))


def read_arrays(
  path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads the arrays, by name, and the metadata of any safetensors file.

  Raises:
    MissingError: If the file does not exist.
    InvalidError: If the file is damaged, is not a safetensors file or has an
      array of a type that NumPy does not have. A change of an array is found in
      files of `save_model`, which have a digest.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingError(f'There is no file {path}.')
  with path.open('rb') as file:
    start = file.read(2)
  if start in _FIRST_BYTES:
    raise InvalidError(
      f'{path} is {_FIRST_BYTES[start]}, not a safetensors file. Convert a'
      f' PyTorch file with {_IMPORT}'
    )
  try:
    with safe_open(path, framework='numpy') as content:
      names = content.keys()
      arrays = {name: content.get_tensor(name) for name in names}
      metadata = content.metadata() or {}
  except (SafetensorError, AttributeError, LookupError, TypeError) as error:
    # safetensors raises these for damage and for types that NumPy lacks.
    raise InvalidError(
      f'{path} ({path.stat().st_size} bytes) is cut short, damaged or not a'
      f' safetensors file of NumPy types ({error}). Copy it again, or save its'
      ' arrays as float32.'
    ) from error
  metadata, saved = sealed.split(metadata)
  if saved is not None and saved != content_digest(arrays, metadata):
    raise InvalidError(
      f'{path} is damaged: its {sealed.KEY} does not match its content. Copy it'
      ' again, or save the network again.'
    )
  return arrays, metadata


def _check_finite(
  path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> None:
  for name, array in arrays.items():
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
      raise InvalidError(
        f'{path}: the array {name} has values that are not finite. Use a'
        ' network that has not diverged.'
      )


def _flatten(trees: Mapping[str, Any]) -> dict[str, np.ndarray]:
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
    for entry in path:
      # Another container would be read back as a dict.
      if not isinstance(entry, jax.tree_util.DictKey):
        raise ValueError(
          f'{jax.tree_util.keystr(path)} is not in nested dicts. Pass'
          " variables['params'] and variables['batch_stats']."
        )
      if not isinstance(entry.key, str) or not entry.key or '/' in entry.key:
        raise ValueError(
          f'{jax.tree_util.keystr(path)}: {entry.key!r} must be text without a'
          ' slash.'
        )
    name = '/'.join(entry.key for entry in path)
    # safetensors writes the buffer without regard to the strides.
    array = np.asarray(leaf, order='C')
    if array.dtype.kind not in 'fiub':
      raise ValueError(
        f'{name} is {array.dtype}, which is not a NumPy type. Save float32'
        ' instead.'
      )
    # Files are little-endian, and the digest is computed from their bytes.
    flat[name] = array.astype(array.dtype.newbyteorder('<'), copy=False)
  return flat
