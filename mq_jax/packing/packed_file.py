"""Files of packed parameters, in the safetensors format.

A file contains the arrays `codes/PATH` and `levels/PATH` of each packed weight,
`params/PATH` of each other parameter, and `model_state/PATH`. A slash within a
name of the path, as in Haiku, is written as %2F. The metadata of
the file contain the rest: shapes and bits, the texts that `pack` received, and
a SHA-256 of everything else, so that no damaged file loads as another network.
Reading a file executes no code.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from mq_jax.files import (
  content_digest,
  read_safetensors,
  safetensors_content,
  write_atomic,
)
from mq_jax.host import on_host
from mq_jax.packing.packed_array import checked_array, is_packed
from mq_jax.packing.packed_params import PackedParams
from mq_jax.selection import nested

FORMAT = 'mq_jax packed 1'
# Keys of the file's metadata. The digest covers all entries except itself.
_TEXTS = ('format', 'layers', 'metadata')
_DIGEST = 'sha256'
_FOLDERS = ('codes', 'levels', 'params', 'model_state')

# Errors of safetensors, NumPy, json and this file, and of Python where a value
# has an unexpected type.
_DAMAGE = (
  safetensors.SafetensorError,
  LookupError,
  ValueError,
  TypeError,
  AttributeError,
  RecursionError,
)


def save_packed(path: str | os.PathLike[str], packed: PackedParams) -> int:
  """Writes packed parameters atomically and replaces any older file.

  Args:
    path: Path that ends in .safetensors; missing folders are created.
    packed: Result of `pack`.

  Returns:
    The size of the file in bytes.

  Raises:
    ValueError: If `path` has another ending, or the format does not support a
      leaf, such as a random key.
  """
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    raise ValueError(f'{path}: a packed file must end in .safetensors.')
  arrays: dict[str, Any] = {}
  layers = {}
  leaves = _escaped_leaves(packed.params)
  for name, leaf in leaves.items():
    if is_packed(leaf):
      arrays[f'codes/{name}'] = leaf.data
      arrays[f'levels/{name}'] = leaf.levels
      layers[name] = [leaf.bits, leaf.shape, leaf.grid, leaf.quantizer]
    else:
      arrays[f'params/{name}'] = leaf
  for name, leaf in _escaped_leaves(packed.model_state).items():
    arrays[f'model_state/{name}'] = leaf
  arrays = {name: _plain(name, leaf) for name, leaf in on_host(arrays).items()}
  # Reading turns paths into nested dicts: fail here rather than there.
  nested(arrays)
  texts = {
    'format': FORMAT,
    'layers': _json(layers),
    'metadata': _json(packed.metadata),
  }
  texts[_DIGEST] = _digest(arrays, texts)
  content = safetensors_content(arrays, texts)
  write_atomic(path, content)
  return len(content)


def load_packed(path: str | os.PathLike[str]) -> PackedParams:
  """Reads a file that `save_packed` wrote.

  Args:
    path: Path of the file. The function never reads beyond the end of the file,
      even if its header claims a larger size.

  Returns:
    The `PackedParams`, as nested dicts in host memory. The arrays share one
    buffer of the size of the file.

  Raises:
    FileNotFoundError: If the file does not exist.
    ValueError: If the file is truncated, changed, or from another program.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    problem = 'is a folder, not a file' if path.is_dir() else 'does not exist'
    raise FileNotFoundError(f'{path} {problem}.')
  try:
    arrays, texts = read_safetensors(path)
    if texts.get('format') != FORMAT:
      raise ValueError(f'the format is {texts.get("format")!r}, not {FORMAT!r}')
    return _packed(arrays, texts)
  except _DAMAGE as error:
    raise ValueError(
      f'{path} ({path.stat().st_size} bytes) is truncated, changed, or not a'
      f' file of mq_jax.save_packed ({error}): copy or save the file again.'
    ) from error


def _plain(name: str, leaf: Any) -> np.ndarray:
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None or isinstance(dtype, np.dtype):
    # safetensors writes the raw buffer and ignores strides.
    array = np.asarray(leaf, order='C')
    dtype = array.dtype
    is_plain = dtype.kind in 'fiub' and dtype.itemsize <= 8
    if is_plain or dtype == jnp.bfloat16:
      # Files are little-endian, and the digest is computed from their bytes.
      return array.astype(dtype.newbyteorder('<'), copy=False)
  raise ValueError(
    f'{name} is {dtype or type(leaf).__name__}, which the file format does not'
    ' support. Cast other floating point types to float32, and remove leaves'
    ' that are not arrays of numbers, as eqx.filter(model, eqx.is_array) does.'
  )


def _escaped_leaves(tree: Any) -> dict[str, Any]:
  """Returns the leaves by paths whose slashes only separate names."""
  flat = jax.tree_util.tree_flatten_with_path(tree, is_packed)[0]
  names = [
    [jax.tree_util.keystr((key,), simple=True) for key in keys]
    for keys, _ in flat
  ]
  paths = ['/'.join(map(_escape, parts)) for parts in names]
  if len(set(paths)) < len(paths):
    raise ValueError(
      f'Two leaves have the same path: rename one of {sorted(paths)}.'
    )
  return dict(zip(paths, (leaf for _, leaf in flat), strict=True))


def _escape(name: str) -> str:
  return name.replace('%', '%25').replace('/', '%2F')


def _unescaped(tree: Any) -> Any:
  """Returns nested dicts with the names that `_escape` received."""
  if not isinstance(tree, dict):
    return tree
  return {
    name.replace('%2F', '/').replace('%25', '%'): _unescaped(part)
    for name, part in tree.items()
  }


def _json(value: Any) -> str:
  return json.dumps(value, separators=(',', ':'), sort_keys=True)


def _digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
  """Returns the SHA-256 of all arrays and texts, independent of their order."""
  return content_digest(arrays, [texts[key] for key in _TEXTS])


def _packed(
  arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> PackedParams:
  """Checks the contents of a file and returns them as `PackedParams`.

  Raises:
    KeyError, ValueError: If anything is missing, superfluous or inconsistent.
  """
  if texts.keys() != {*_TEXTS, _DIGEST}:
    raise ValueError(f'the texts are {sorted(texts)}')
  if _digest(arrays, texts) != texts[_DIGEST]:
    raise ValueError('the SHA-256 does not match the contents')
  folders: dict[str, dict[str, Any]] = {folder: {} for folder in _FOLDERS}
  for name, array in arrays.items():
    folder, _, rest = name.partition('/')
    folders[folder][rest] = array
  codes, levels = folders['codes'], folders['levels']
  layers = json.loads(texts['layers'])
  if not layers.keys() == codes.keys() == levels.keys():
    raise ValueError('codes, levels and shapes belong to different layers')
  params = {
    name: checked_array(name, codes[name], levels[name], *layers[name])
    for name in layers
  } | folders['params']
  metadata = json.loads(texts['metadata'])
  if not all(isinstance(text, str) for text in metadata.values()):
    raise ValueError('the metadata contain values that are not text')
  state = folders['model_state']
  return PackedParams(
    _unescaped(nested(params)), _unescaped(nested(state)), metadata
  )
