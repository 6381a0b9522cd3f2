"""Reads one file of an official CIFAR python archive; calls nothing in it.

A general unpickler runs what a pickle names, and a crafted pickle can make it
allocate any amount of memory. This reader interprets the few instructions that
the files of the archives need, also after Python 3 saved them again, and counts
the instructions. Time and memory are thus bounded by the size of the file.
"""

import pickletools
from typing import Any, Literal

import numpy as np

_RECONSTRUCT = (
  'numpy.core.multiarray _reconstruct',
  'numpy._core.multiarray _reconstruct',
)
_DTYPE = 'numpy dtype'
# Python 3 writes bytes as a call of this function under Python 2's protocol.
_ENCODE = '_codecs encode'
_NAMES = (*_RECONSTRUCT, 'numpy ndarray', _DTYPE, _ENCODE)
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_NUMBERS = ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG1')
_TEXTS = ('BINSTRING', 'SHORT_BINSTRING', 'BINUNICODE', 'SHORT_BINUNICODE')
_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


class _Name(str):
  """The module and the name of a function, which is never looked up."""

  __slots__ = ()


class _Call:
  """A function call that the pickle requests, and the state it then sets."""

  __slots__ = ('arguments', 'name', 'state')

  def __init__(self, name: _Name, arguments: Any) -> None:
    self.name, self.arguments = name, arguments


class _Machine:
  """The state of the interpreter. Bytes are kept as Latin-1 text."""

  def __init__(self) -> None:
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}

  def run(self, instruction: str, argument: Any) -> None:
    """Executes one instruction other than STOP."""
    stack, memo = self.stack, self.memo
    match instruction:
      case 'PROTO' | 'FRAME':
        pass
      case 'MARK':
        self.marks.append(len(stack))
      case _ if instruction in _CONSTANTS:
        stack.append(_CONSTANTS[instruction])
      case _ if instruction in _NUMBERS or instruction in _TEXTS:
        stack.append(argument)
      case 'BINBYTES' | 'SHORT_BINBYTES':
        stack.append(argument.decode('latin1'))
      case 'EMPTY_LIST':
        stack.append([])
      case 'EMPTY_DICT':
        stack.append({})
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        count = int(instruction[-1])
        stack[-count:] = [tuple(stack[-count:])]
      case 'TUPLE':
        stack.append(tuple(self._since_mark()))
      case 'APPENDS':
        items = self._since_mark()
        stack[-1].extend(items)
      case 'SETITEMS':
        items = self._since_mark()
        # A tuple as a key could be nested deeper than hash() can follow.
        if not all(isinstance(key, str) for key in items[::2]):
          raise TypeError('it has a key that is not a string')
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
      case 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'MEMOIZE':
        memo[len(memo)] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'GLOBAL':
        stack.append(_name(argument))
      case 'STACK_GLOBAL':
        name, module = stack.pop(), stack.pop()
        stack.append(_name(f'{module:.99} {name:.99}'))
      case 'REDUCE':
        arguments, name = stack.pop(), stack.pop()
        stack.append(_called(name, arguments))
      case 'BUILD':
        state = stack.pop()
        stack[-1].state = state
      case _:
        raise ValueError(
          f'it asks for the instruction {instruction}, which no CIFAR file does'
        )

  def _since_mark(self) -> list[Any]:
    start = self.marks.pop()
    items = self.stack[start:]
    del self.stack[start:]
    return items


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
    code = dtype.arguments[0].lstrip('|')
    if batch['data'].name not in _RECONSTRUCT or dtype.name != _DTYPE:
      raise ValueError('its pixels are not a NumPy array')
    if code != 'u1' or shape != (count, width):
      raise ValueError(f'its pixels are not uint8 of shape ({count}, {width})')
    labels = batch[key]
    if len(labels) != count or not all(type(x) is int for x in labels):
      raise ValueError(f'its labels are not {count} integers')
    order: Literal['F', 'C'] = 'F' if fortran else 'C'
    rows = np.frombuffer(pixels.encode('latin1'), np.uint8)
    return rows.reshape(shape, order=order), np.array(labels, np.int32)
  except _ERRORS as error:
    # A message may quote a text of the file.
    raise ValueError(f'{error}'[:150] or type(error).__name__) from error


def _load(content: bytes, limit: int) -> Any:
  machine = _Machine()
  for done, (code, argument, _) in enumerate(pickletools.genops(content)):
    if code.name == 'STOP':
      return machine.stack.pop()
    if done == limit:
      raise ValueError(f'it has more than {limit} instructions')
    machine.run(code.name, argument)
  raise ValueError('it does not end')


def _name(text: str) -> _Name:
  if text not in _NAMES:
    raise ValueError(
      f'it asks for {text[:99].replace(" ", ".")}, which no CIFAR file does'
    )
  return _Name(text)


def _called(name: Any, arguments: Any) -> Any:
  if type(name) is not _Name:
    raise TypeError('it calls something that is not a function')
  if name != _ENCODE:
    return _Call(name, arguments)
  text, encoding = arguments
  if encoding != 'latin1':
    raise ValueError(f'it asks for the encoding {encoding:.9}')
  return text
