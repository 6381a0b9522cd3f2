"""One file a network: its parameters, batch statistics and where it is from.

The format is safetensors: a header of names, shapes and text, then the
numbers. Reading one executes nothing. The names are paths such as
`params/stage1/block0/conv1/kernel` and `batch_stats/stem_norm/mean`.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from experiments.common.errors import InvalidError, MissingError
from mq_jax import selection
from mq_jax.packing.packed_file import write_atomic

_COLLECTIONS = ('params', 'batch_stats')
_FIRST_BYTES = {
  b'PK': 'a zip archive, as torch.save and numpy.savez write them',
  b'\x80\x02': 'a pickle, as old versions of torch.save write them',
  b'\x1f\x8b': 'a gzip archive',
}


class ModelFile(NamedTuple):
  """What a model file holds.

  Attributes:
    params: Nested dicts of arrays, as the network's `params`.
    batch_stats: Nested dicts of arrays, as the network's `batch_stats`.
    metadata: Text, such as `network`, `num_classes`, `dataset`, `accuracy`.
  """

  params: dict[str, Any]
  batch_stats: dict[str, Any]
  metadata: dict[str, str]


def digest(path: str | os.PathLike[str]) -> str:
  """A short text that tells the content of a file from any other."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()[:16]


def save_model(
  path: str | os.PathLike[str],
  params: Mapping[str, Any],
  batch_stats: Mapping[str, Any],
  metadata: Mapping[str, str],
) -> None:
  """Writes a model file whole or not at all, in place of any older one.

  Args:
    path: Ends in .safetensors; missing folders are made.
    params: Nested dicts of arrays.
    batch_stats: Nested dicts of arrays; may be empty.
    metadata: Text by name.

  Raises:
    ValueError: If `path` ends otherwise, a container is no dict, a name has a
      slash, an array is bfloat16, or `metadata` is no text.
  """
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    raise ValueError(f'{path}: a model file must end in .safetensors')
  for key, value in metadata.items():
    if not isinstance(key, str) or not isinstance(value, str):
      raise ValueError(f'metadata {key!r}: {value!r} is not text: take str()')
  trees = dict(zip(_COLLECTIONS, (params, batch_stats), strict=True))
  content = safetensors.numpy.save(_flatten(trees), dict(metadata))
  write_atomic(path, content)


def load_model(path: str | os.PathLike[str]) -> ModelFile:
  """Reads a file that `save_model` wrote.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If it is damaged or something else.
  """
  path = pathlib.Path(path)
  content = _read(path)
  for start, what in _FIRST_BYTES.items():
    if content.startswith(start):
      raise InvalidError(
        f'{path} is {what}, not a safetensors file: convert a .pth file with'
        ' python -m experiments.import_torch SRC.pth DEST.safetensors'
      )
  try:
    flat = safetensors.numpy.load(content)
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
  except (safetensors.SafetensorError, KeyError) as error:
    raise InvalidError(
      f'{path} ({len(content)} bytes) is cut short, damaged or not a'
      f' safetensors file ({error}): copy it again'
    ) from error
  return _model(flat, metadata, path)


def _read(path: pathlib.Path) -> bytes:
  if not path.is_file():
    raise MissingError(f'there is no file {path}')
  return path.read_bytes()


def _flatten(trees: Mapping[str, Any]) -> dict[str, np.ndarray]:
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
    for entry in path:
      # Anything else would come back as a dict, and be another pytree.
      if not isinstance(entry, jax.tree_util.DictKey):
        raise ValueError(
          f'{jax.tree_util.keystr(path)} is not in nested dicts: hand over'
          " variables['params'] and variables['batch_stats']"
        )
      if not isinstance(entry.key, str) or not entry.key or '/' in entry.key:
        raise ValueError(
          f'{jax.tree_util.keystr(path)}: {entry.key!r} must be text without a'
          ' slash'
        )
    name = '/'.join(entry.key for entry in path)
    # safetensors writes the buffer as it lies, strides or not.
    flat[name] = np.asarray(leaf, order='C')
    if flat[name].dtype.kind not in 'fiub':
      raise ValueError(
        f'{name} is {flat[name].dtype}, which numpy cannot read back: save'
        ' float32'
      )
  return flat


def _model(
  flat: Mapping[str, np.ndarray],
  metadata: dict[str, str],
  path: pathlib.Path,
) -> ModelFile:
  for name in flat:
    folder, slash, _ = name.partition('/')
    if not slash or folder not in _COLLECTIONS:
      raise InvalidError(
        f'{path} has an array {name!r}, but in our model files they all start'
        ' with params/ or batch_stats/: it is from another program'
      )
  trees = {name: {} for name in _COLLECTIONS} | selection.nested(flat)
  if not trees['params']:
    raise InvalidError(f'{path} has no parameters')
  return ModelFile(**trees, metadata=metadata)
