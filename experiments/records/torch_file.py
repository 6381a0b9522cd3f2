"""Reads a torch state dict of the old format, without torch.

Files of torch before 1.6 are five pickles one after the other (a magic number,
the version, the machine, the state dict, the names of its storages), then each
storage as its length and its numbers. A pickle can name any function and have
it called. Here it may name the five things that a state dict needs, and gets
stand-ins of ours even for those.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# Little-endian, as every machine with a GPU writes them.
_DTYPES = {
  'FloatStorage': '<f4',
  'DoubleStorage': '<f8',
  'HalfStorage': '<f2',
  'LongStorage': '<i8',
}
_PICKLE_ERRORS = (
  pickle.UnpicklingError,
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  TypeError,
  ValueError,
)


class _Storage(NamedTuple):
  name: str
  dtype: str
  length: int


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _StateDict(dict):
  """In place of OrderedDict; drops the attributes torch hangs on it."""

  def __setstate__(self, state: Any) -> None:
    pass


class _RefusedError(ValueError):
  """What the file asks for, and does not get."""


class _RebuildTensor:
  """In place of torch's function; has no attribute that a file could set."""

  __slots__ = ()

  def __call__(
    self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
  ) -> _Tensor:
    if not isinstance(storage, _Storage):
      raise _RefusedError('it has a tensor without a storage')
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
  """Builds descriptions of tensors, and refuses whatever else is named."""

  def find_class(self, module: str, name: str) -> Any:
    """Our stand-in for what the pickle names."""
    if (module, name) == ('collections', 'OrderedDict'):
      return _StateDict
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return _RebuildTensor()
    if module == 'torch' and name in _DTYPES:
      return name
    raise _RefusedError(
      f'it asks for {module}.{name}, which no state dict needs; nothing of it'
      ' was run. If the file is a whole module and you trust it, save its'
      ' state_dict() with torch'
    )

  def persistent_load(self, pid: Any) -> _Storage:
    """A storage, known by name until its numbers are read."""
    kind, storage_type, name, _, length, view = pid
    described = isinstance(name, str) and type(length) is int and view is None
    if kind != 'storage' or storage_type not in _DTYPES or not described:
      raise _RefusedError(
        f'it has a storage that is none of {sorted(_DTYPES)}, or a view'
      )
    return _Storage(name, _DTYPES[storage_type], length)


def read_state_dict(content: bytes) -> dict[str, np.ndarray]:
  """The arrays of a state dict in torch's old format.

  Args:
    content: Of a whole file.

  Returns:
    Arrays by torch's names, such as `layer1.0.conv1.weight`.

  Raises:
    ValueError: If the file is damaged, of another format or names anything but
      tensors.
  """
  if content.startswith(b'PK'):
    raise ValueError(
      'it is a zip archive, the format of torch from 1.6 on. Where torch is'
      ' installed: torch.save(torch.load(path, weights_only=True), path,'
      ' _use_new_zipfile_serialization=False)'
    )
  stream = io.BytesIO(content)
  if _unpickle(stream, 'magic number') != MAGIC_NUMBER:
    raise ValueError('it is a pickle, but torch.save did not write it')
  version = _unpickle(stream, 'version')
  if version != PROTOCOL_VERSION:
    raise ValueError(f'its version is not {PROTOCOL_VERSION}')
  machine = _unpickle(stream, 'machine')
  if not isinstance(machine, dict) or machine.get('little_endian') is not True:
    raise ValueError('it was not written by a little-endian machine')
  tensors = _unpickle(stream, 'state dict')
  if not isinstance(tensors, dict) or not all(
    isinstance(name, str) and isinstance(tensor, _Tensor)
    for name, tensor in tensors.items()
  ):
    raise ValueError(
      'it is not a state dict, tensors by name: save model.state_dict() itself'
    )
  names = _unpickle(stream, 'list of storages')
  storages = _read_storages(stream, tensors, names)
  return {
    name: _array(name, tensor, storages) for name, tensor in tensors.items()
  }


def _unpickle(stream: io.BytesIO, what: str) -> Any:
  try:
    _check_memo(stream)
    return _Unpickler(stream).load()
  except _RefusedError:
    raise
  except _PICKLE_ERRORS as error:
    raise ValueError(
      f'its {what} cannot be read: {error or type(error).__name__}. The file is'
      ' cut short, damaged or not a .pth file'
    ) from error


def _check_memo(stream: io.BytesIO) -> None:
  """Reads one pickle without building it; raises where it ends early."""
  start = stream.tell()
  size = stream.getbuffer().nbytes
  for opcode, argument, _ in pickletools.genops(stream):
    # The unpickler would allocate as many places: 64 GB after a flipped bit.
    if opcode.name.endswith('PUT') and (argument or 0) > size:
      raise pickle.UnpicklingError(f'it numbers an object {argument}')
  stream.seek(start)


def _read_storages(
  stream: io.BytesIO, tensors: Mapping[str, _Tensor], names: Any
) -> dict[str, np.ndarray]:
  wanted = {tensor.storage.name: tensor.storage for tensor in tensors.values()}
  if (
    not isinstance(names, list)
    or not all(isinstance(name, str) for name in names)
    or sorted(names) != sorted(wanted)
  ):
    raise ValueError('its list of storages is not that of its tensors')
  storages = {}
  for name in names:
    _, dtype, expected = wanted[name]
    length = int.from_bytes(stream.read(8), 'little')
    size = length * np.dtype(dtype).itemsize
    data = stream.read(min(size, stream.getbuffer().nbytes))
    if length != expected or len(data) != size:
      raise ValueError(
        f'its numbers end early or are damaged, by byte {stream.tell()}: copy'
        ' it again'
      )
    storages[name] = np.frombuffer(data, dtype)
  if rest := len(stream.read()):
    raise ValueError(f'{rest} bytes follow its last number: copy it again')
  return storages


def _array(
  name: str, tensor: _Tensor, storages: Mapping[str, np.ndarray]
) -> np.ndarray:
  storage = storages[tensor.storage.name]
  _, offset, shape, strides = tensor
  inside = len(shape) == len(strides) and all(
    type(number) is int and least <= number <= storage.size
    for least, numbers in ((0, (offset, *strides)), (1, shape))
    for number in numbers
  )
  # A view beyond its storage would read memory that is not the file's.
  if not inside or storage.size <= offset + sum(
    (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
  ):
    raise ValueError(f'its tensor {name} is empty or not inside its storage')
  return np.lib.stride_tricks.as_strided(
    storage[offset:],
    shape,
    [stride * storage.itemsize for stride in strides],
    writeable=False,
  )
