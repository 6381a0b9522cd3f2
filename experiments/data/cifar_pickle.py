"""Reads one file of an official CIFAR python archive; calls nothing in it.

A general unpickler runs what a pickle names, and a crafted pickle can make it
allocate any amount of memory. This reader first checks that a file has only the
instructions that the files of the archives need, also after Python 3 saved them
again, and counts the instructions. The unpickler then gets stand-ins for the
functions that the file names. Time and memory are thus bounded by the size of
the file.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

_ARRAYS = (
  'numpy.core.multiarray._reconstruct',
  'numpy._core.multiarray._reconstruct',
)
_DTYPE = 'numpy.dtype'
# Python 3 writes bytes as a call of this function under Python 2's protocol.
_ENCODE = '_codecs.encode'
_NAMES = (*_ARRAYS, 'numpy.ndarray', _DTYPE, _ENCODE)
_ALLOWED = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1
BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES
EMPTY_LIST APPENDS EMPTY_DICT SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT
LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
# A dict becomes a list of its keys and values: a key could be a tuple that
# hash() needs years for, or that is nested deeper than hash() can follow.
_AS_LIST = {'EMPTY_DICT': pickle.EMPTY_LIST, 'SETITEMS': pickle.APPENDS}
_ERRORS = (
  ValueError,
  LookupError,
  TypeError,
  AttributeError,
  ArithmeticError,
  pickle.UnpicklingError,
)


class _Call:
  """A function call that the pickle requests, and the state it then sets."""

  __slots__ = ('arguments', 'name', 'state')

  def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
    self.name, self.arguments = name, arguments

  def __setstate__(self, state: Any) -> None:
    self.state = state


class _Unpickler(pickle.Unpickler):
  """Returns stand-ins for the functions that a pickle names."""

  def find_class(self, module: str, name: str) -> Callable[..., Any]:
    full = f'{module:.99}.{name:.99}'
    if full not in _NAMES:
      raise ValueError(f'it asks for {full:.99}, which no CIFAR file does')
    if full == _ENCODE:
      return _keep_text
    return lambda *arguments: _Call(full, arguments)


def _keep_text(text: Any, encoding: Any) -> Any:
  """Replaces `_codecs.encode`, which would run any codec and copy the text."""
  if encoding != 'latin1':
    raise ValueError(f'it asks for the encoding {encoding:.9}')
  return text


def read_batch(
  content: bytes, key: str, count: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads the pixels and the labels of a pickled batch.

  Args:
    content: Content of the file.
    key: Key of the labels, 'labels' or 'fine_labels'.
    count: Number of images that the file must have.
    width: Number of bytes per image.

  Returns:
    The pixels, uint8 of shape (count, width), and the labels, int32 of shape
    (count,).

  Raises:
    ValueError: If the file is damaged, is another pickle, or has more
      instructions than a batch needs.
  """
  try:
    batch = _load(content, limit=1000 + 10 * count)
    _, shape, dtype, fortran, pixels = batch['data'].state
    if batch['data'].name not in _ARRAYS or dtype.name != _DTYPE:
      raise ValueError('its pixels are not a NumPy array')
    if dtype.arguments[0].lstrip('|') != 'u1' or shape != (count, width):
      raise ValueError(f'its pixels are not uint8 of shape ({count}, {width})')
    labels = batch[key]
    if len(labels) != count or not all(type(x) is int for x in labels):
      raise ValueError(f'its labels are not {count} integers')
    order: Literal['F', 'C'] = 'F' if fortran else 'C'
    if isinstance(pixels, str):
      pixels = pixels.encode('latin1')
    rows = np.frombuffer(pixels, np.uint8)
    return rows.reshape(shape, order=order), np.array(labels, np.int32)
  except _ERRORS as error:
    # A message may quote a text of the file.
    raise ValueError(f'{error}'[:150] or type(error).__name__) from error


def _load(content: bytes, limit: int) -> dict[str, Any]:
  """Checks every instruction of a pickle of a dict, and then loads it."""
  allowed = frozenset(_ALLOWED.split())
  instructions: Iterator[tuple[Any, Any, Any]] = pickletools.genops(content)
  file = io.BytesIO(content)
  with file.getbuffer() as buffer:
    for i, (code, argument, place) in enumerate(instructions):
      if i == limit:
        raise ValueError(f'it has more than {limit} instructions')
      if code.name not in allowed:
        raise ValueError(
          f'it asks for the instruction {code.name}, which no CIFAR file does'
        )
      # The unpickler allocates memory for all numbers up to this one.
      if code.name in ('BINPUT', 'LONG_BINPUT') and argument > limit:
        raise ValueError(f'it numbers a value {argument}')
      # An instruction across the end of a frame would be read differently.
      if code.name == 'FRAME':
        buffer[place + 1 : place + 9] = bytes(8)
      if code.name in _AS_LIST:
        buffer[place : place + 1] = _AS_LIST[code.name]
  items = _Unpickler(file, encoding='latin1').load()
  keys = [k.decode('latin1') if type(k) is bytes else k for k in items[::2]]
  if not all(type(key) is str for key in keys):
    raise TypeError('it has a key that is not a string')
  return dict(zip(keys, items[1::2], strict=True))
