"""Files of packed parameters, in the safetensors format.

A file contains the arrays `codes/PATH` and `levels/PATH` of each packed weight,
`params/PATH` of each other parameter, and `model_state/PATH`. The metadata of
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
import numpy as np
import safetensors

from mq_jax.files import content_digest, safetensors_content, write_atomic
from mq_jax.host import on_host
from mq_jax.packing.packed_array import checked_array, is_packed
from mq_jax.packing.packed_params import PackedParams
from mq_jax.selection import named_leaves, nested

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
    ValueError: If `path` has another ending, a name contains a slash, or the
      format does not support a leaf, such as bfloat16 or a random key.
  """
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    raise ValueError(f'{path}: a packed file must end in .safetensors.')
  _check_names((packed.params, packed.model_state))
  arrays: dict[str, Any] = {}
  layers = {}
  leaves: dict[str, Any] = named_leaves(packed.params, is_leaf=is_packed)
  for name, leaf in leaves.items():
    if is_packed(leaf):
      arrays[f'codes/{name}'] = leaf.data
      arrays[f'levels/{name}'] = leaf.levels
      layers[name] = [leaf.bits, leaf.shape, leaf.grid, leaf.quantizer]
    else:
      arrays[f'params/{name}'] = leaf
  for name, leaf in named_leaves(packed.model_state).items():
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
    The `PackedParams`, as nested dicts in host memory.

  Raises:
    FileNotFoundError: If the file does not exist.
    ValueError: If the file is truncated, changed, or from another program.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    problem = 'is a folder, not a file' if path.is_dir() else 'does not exist'
    raise FileNotFoundError(f'{path} {problem}.')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      texts = file.metadata() or {}
      if texts.get('format') != FORMAT:
        raise ValueError(
          f'the format is {texts.get("format")!r}, not {FORMAT!r}'
        )
      names = list(file.keys())
      arrays = {name: file.get_tensor(name) for name in names}
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
    if dtype.kind in 'fiub' and dtype.itemsize <= 8:
      # Files are little-endian, and the digest is computed from their bytes.
      return array.astype(dtype.newbyteorder('<'), copy=False)
  raise ValueError(
    f'{name} is {dtype or type(leaf).__name__}, which the file format does not'
    ' support. Cast bfloat16 to float32, which is exact; remove leaves that are'
    ' not arrays of numbers, as eqx.filter(model, eqx.is_array) does.'
  )


def _check_names(tree: Any) -> None:
  for keys, _ in jax.tree_util.tree_flatten_with_path(tree, is_packed)[0]:
    names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
    if wrong := [name for name in names if '/' in name]:
      raise ValueError(
        f'{wrong[0]!r} contains a slash, but slashes separate the names of a'
        ' path: rename the leaf.'
      )


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
  return PackedParams(nested(params), nested(folders['model_state']), metadata)
