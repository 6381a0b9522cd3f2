"""Packed parameters as a file, and back, in the safetensors format.

The file holds the arrays `codes/PATH` and `levels/PATH` of each packed weight,
`params/PATH` of the other parameters and `model_state/PATH`. What arrays do not
say stands in the file's own metadata: shapes and bits, the text that `pack` was
given, and a SHA-256 of all the rest, so that no damaged file loads as another
network. Reading one executes nothing.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from mq_jax.levels import LARGEST
from mq_jax.packed_array import (
  MOST_BITS,
  PackedArray,
  codes_of,
  is_packed,
  packed_bytes,
)
from mq_jax.packing import PackedParams
from mq_jax.selection import named_leaves, nested

FORMAT = 'mq_jax packed 1'
# Of the file's metadata; DIGEST is that of all the rest.
_TEXTS = ('format', 'layers', 'metadata')
_DIGEST = 'sha256'
_FOLDERS = ('codes', 'levels', 'params', 'model_state')

# What safetensors, NumPy and json raise, we ourselves, and Python where the
# pieces are not of the kind that we write.
_DAMAGE = (
  safetensors.SafetensorError,
  LookupError,
  ValueError,
  TypeError,
  AttributeError,
  RecursionError,
)


def save_packed(path: str | os.PathLike[str], packed: PackedParams) -> int:
  """Writes packed parameters, whole or not at all, in place of any older file.

  Args:
    path: Ends in .safetensors; missing folders are made.
    packed: From `pack`.

  Returns:
    Bytes of the file.

  Raises:
    ValueError: If `path` ends otherwise, a name has a slash in it, or a leaf is
      no array that the format has, such as bfloat16 or a random key.
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
  arrays = {name: _plain(name, leaf) for name, leaf in arrays.items()}
  # Reading makes nested dicts of the paths: better to fail here than there.
  nested(arrays)
  texts = {
    'format': FORMAT,
    'layers': _json(layers),
    'metadata': _json(packed.metadata),
  }
  texts[_DIGEST] = _digest(arrays, texts)
  content = safetensors.numpy.save(arrays, texts)
  write_whole(path, content)
  return len(content)


def load_packed(path: str | os.PathLike[str]) -> PackedParams:
  """Reads a file that `save_packed` wrote.

  Args:
    path: The file. What is read is never more than is there.

  Returns:
    The `PackedParams`, in nested dicts, in the memory of the host.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If it is cut short, changed, or from another program.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    what = 'is a folder, not a file' if path.is_dir() else 'is not there'
    raise FileNotFoundError(f'{path} {what}')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      texts = file.metadata() or {}
      if texts.get('format') != FORMAT:
        raise ValueError(
          f'its format is {texts.get("format")!r}, not {FORMAT!r}'
        )
      names = list(file.keys())
      arrays = {name: file.get_tensor(name) for name in names}
    return _packed(arrays, texts)
  except _DAMAGE as error:
    raise ValueError(
      f'{path} ({path.stat().st_size} bytes) is cut short, changed, or no file'
      f' of mq_jax.save_packed ({error}): copy it again, or pack anew.'
    ) from error


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all, in place of any older one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # The process id keeps two writers of one name out of each other's way.
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    with partial.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def _plain(name: str, leaf: Any) -> np.ndarray:
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None or isinstance(dtype, np.dtype):
    # safetensors writes the buffer as it lies, strides or not.
    array = np.asarray(leaf, order='C')
    dtype = array.dtype
    if dtype.kind in 'fiub' and dtype.itemsize <= 8:
      # Files are little-endian, and the digest is that of their bytes.
      return array.astype(dtype.newbyteorder('<'), copy=False)
  # Also what is no array of numbers, such as a random key.
  raise ValueError(
    f'{name} is {dtype or type(leaf).__name__}, which the file cannot hold.'
    ' Cast bfloat16 to float32, which holds it exactly; leave out what is no'
    ' array of numbers, as eqx.filter(model, eqx.is_array) does.'
  )


def _check_names(tree: Any) -> None:
  for keys, _ in jax.tree_util.tree_flatten_with_path(tree, is_packed)[0]:
    names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
    if wrong := [name for name in names if '/' in name]:
      raise ValueError(
        f'{wrong[0]!r} has a slash in it, and slashes part the names of a path.'
      )


def _json(value: Any) -> str:
  return json.dumps(value, separators=(',', ':'), sort_keys=True)


def _digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
  """Of names, dtypes, shapes, numbers and texts, in whatever order they lie."""
  whole = hashlib.sha256()
  heads = [
    (name, str(array.dtype), array.shape)
    for name, array in sorted(arrays.items())
  ]
  whole.update(_json([heads, [texts[key] for key in _TEXTS]]).encode())
  for _, array in sorted(arrays.items()):
    whole.update(array.tobytes())
  return whole.hexdigest()


def _packed(
  arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> PackedParams:
  """Checks and sorts what a file holds.

  Raises:
    KeyError, ValueError: If anything is missing, too much, or does not fit.
  """
  if texts.keys() != {*_TEXTS, _DIGEST}:
    raise ValueError(f'it has the texts {sorted(texts)}')
  if _digest(arrays, texts) != texts[_DIGEST]:
    raise ValueError('its SHA-256 is not that of its contents')
  folders: dict[str, dict[str, Any]] = {folder: {} for folder in _FOLDERS}
  for name, array in arrays.items():
    folder, _, rest = name.partition('/')
    folders[folder][rest] = array
  codes, levels = folders['codes'], folders['levels']
  layers = json.loads(texts['layers'])
  if not layers.keys() == codes.keys() == levels.keys():
    raise ValueError('codes, levels and shapes are not of the same layers')
  params = {
    name: _checked(name, codes[name], levels[name], *layers[name])
    for name in layers
  } | folders['params']
  metadata = json.loads(texts['metadata'])
  if not all(isinstance(text, str) for text in metadata.values()):
    raise ValueError('its metadata are not text')
  return PackedParams(nested(params), nested(folders['model_state']), metadata)


def _checked(
  name: str,
  data: np.ndarray,
  levels: np.ndarray,
  bits: int,
  shape: list[int],
  grid: list[int] | None,
  quantizer: str,
) -> PackedArray:
  if not (
    _integers([bits], 1, MOST_BITS)
    and _integers(shape, 1, math.inf)
    and (grid is None or _is_grid(grid))
    and isinstance(quantizer, str)
  ):
    raise ValueError(
      f'{name} has bits {bits!r}, shape {shape!r}, grid {grid!r}, quantizer'
      f' {quantizer!r}'
    )
  size, tables = math.prod(shape), levels.shape[:-1]
  fits = (
    data.dtype == np.uint8
    and data.shape == (packed_bytes(size, bits),)
    and levels.dtype.kind == 'f'
    and levels.ndim >= 1
    and (not tables or len(tables) == len(shape))
    and all(n in (1, own) for n, own in zip(tables, shape, strict=False))
    and 1 <= levels.shape[-1] <= (1 if grid else 2**bits)
  )
  if not fits:
    raise ValueError(
      f'{name} of shape {shape} and {bits} bits has {data.dtype} codes of shape'
      f' {data.shape} and {levels.dtype} levels of shape {levels.shape}'
    )
  first_and_step = (grid[0], grid[1]) if grid else None
  packed = PackedArray(
    data, levels, tuple(shape), bits, first_and_step, quantizer
  )
  if not np.all(np.isfinite(levels)):
    raise ValueError(f'{name} has levels that are not finite')
  whole = grid or levels.shape[-1] == 2**bits
  if not whole and np.max(codes_of(packed)) >= levels.shape[-1]:
    raise ValueError(f'{name} has codes beyond its {levels.shape[-1]} levels')
  return packed


def _integers(values: list[int], least: float, most: float) -> bool:
  # JSON has true and 2.0 as well, which count as equal to integers.
  return isinstance(values, list) and all(
    type(value) is int and least <= value <= most for value in values
  )


def _is_grid(grid: list[int]) -> bool:
  return (
    _integers(grid, -LARGEST, 2 * LARGEST)
    and len(grid) == 2
    and grid[0] <= LARGEST
    and grid[1] >= 1
  )
