"""Writes files completely or not at all, and equal data as equal bytes."""

import contextlib
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

# The types of the format that this library writes.
_DTYPES: dict[str, Any] = {
  **{
    f'{kind}{8 * size}': f'<{kind.lower()}{size}'
    for kind in 'IU'
    for size in (1, 2, 4, 8)
  },
  **{f'F{8 * size}': f'<f{size}' for size in (2, 4, 8)},
  'BF16': jnp.bfloat16,
  'BOOL': np.bool_,
}
# A safetensors file starts with the length of its header, which is a multiple
# of 8.
_PREFIX = 8


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
  """Opens a binary file that takes its name only once it is complete.

  The content is on disk before the file replaces an older one. An error inside
  the context leaves the older file as it was and removes the new one.

  Args:
    path: File to write. Missing folders are created.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Several processes and threads may write the same file.
  writer = f'{threading.get_ident()}.{os.getpid()}'
  partial = path.with_name(f'.{path.name}.{writer}.partial')
  try:
    with partial.open('wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a complete file or nothing, and replaces any older file."""
  with open_atomic(path) as file:
    file.write(content)


def safetensors_content(
  arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> bytes:
  """Returns the content of a safetensors file; equal inputs give equal bytes.

  The safetensors library writes metadata in random order, so this function
  sorts them.

  Args:
    arrays: Arrays by name.
    texts: Metadata of the file.
  """
  content = safetensors.numpy.save(dict(arrays), dict(texts) or None)
  end = _PREFIX + int.from_bytes(content[:_PREFIX], 'little')
  header = json.loads(content[_PREFIX:end])
  if texts:
    header['__metadata__'] = dict(sorted(texts.items()))
  text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
  text += b' ' * (-len(text) % _PREFIX)
  return len(text).to_bytes(_PREFIX, 'little') + text + content[end:]


def read_safetensors(
  path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads a safetensors file once, into the memory that its arrays share.

  The library reads through a mapping of the file and copies each array, which
  needs twice the memory.

  Args:
    path: Path of the file.

  Returns:
    Arrays by name, and the texts of the metadata.

  Raises:
    safetensors.SafetensorError: If the header is damaged.
    ValueError: If the file changes while it is read, or has an array of an
      unknown type.
  """
  with safetensors.safe_open(path, framework='numpy') as file:
    texts = dict(file.metadata() or {})
  content = np.fromfile(path, np.uint8)
  end = _PREFIX + int.from_bytes(content[:_PREFIX].tobytes(), 'little')
  header = json.loads(content[_PREFIX:end].tobytes())
  header.pop('__metadata__', None)
  arrays = {}
  for name, place in header.items():
    first, last = place['data_offsets']
    dtype = _DTYPES.get(place['dtype'])
    if dtype is None:
      raise ValueError(f'{name} has the type {place["dtype"]}')
    values = content[end + first : end + last].view(dtype)
    arrays[name] = values.reshape(place['shape'])
  return arrays, texts


def content_digest(arrays: Mapping[str, np.ndarray], texts: Any) -> str:
  """Returns the SHA-256 of arrays and texts, whatever the order of the arrays.

  Args:
    arrays: Little-endian arrays by name.
    texts: JSON value.
  """
  headers = [
    (name, str(array.dtype), array.shape)
    for name, array in sorted(arrays.items())
  ]
  text = json.dumps([headers, texts], separators=(',', ':'), sort_keys=True)
  digest = hashlib.sha256(text.encode())
  for _, array in sorted(arrays.items()):
    # The bytes of the array itself: a large one is not copied.
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()
