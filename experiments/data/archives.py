"""Lists the files of a tar archive in bounded time and memory.

An archive of some kilobytes can expand to terabytes, contain millions of
members, or contain headers as long as the archive. `tarfile` has no bounds for
any of these. The bounds here leave room for the official CIFAR archives, also
packed again by another program.
"""

import contextlib
import functools
import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from experiments.common.errors import InvalidError

LONGEST = 2**29  # Bytes of the decompressed archive; the longest has 186 MB.
# Headers of members, and of extended attributes of members. An official archive
# has at most 10; macOS adds a second member and two such headers to each.
HEADERS = 100
# Bytes of a header of extended attributes. Python before 3.11.10 reads it in
# quadratic time.
LONGEST_HEADER = 4096
ALL_HEADERS = 2**20  # Bytes of all headers, and of lists of parts of files.
_GZIP = b'\x1f\x8b'
_EXTENDED = (
  tarfile.XHDTYPE,
  tarfile.XGLTYPE,
  tarfile.SOLARIS_XHDTYPE,
  tarfile.GNUTYPE_LONGNAME,
  tarfile.GNUTYPE_LONGLINK,
)
# Errors of damaged archives. Not all of them are errors of tarfile.
_DAMAGE = (
  tarfile.TarError,
  EOFError,
  zlib.error,
  OSError,
  ValueError,
  LookupError,
  TypeError,
  ArithmeticError,
  RecursionError,
)


class File(NamedTuple):
  """A file of a source.

  Attributes:
    size: Number of bytes.
    read: Function that returns the content.
  """

  size: int
  read: Callable[[], bytes]


class SourceError(InvalidError):
  """The source is not a complete data set."""


class _TooLargeError(Exception):
  """The archive exceeds a bound."""


class _Bounded:
  """A file in which no position is beyond `LONGEST`, as `tarfile` needs it.

  Attributes:
    left: Number of bytes that may be read; infinite if it is None.
  """

  def __init__(self, file: IO[bytes]) -> None:
    self._file, self.tell = file, file.tell
    self.left: int | None = ALL_HEADERS

  def read(self, size: int) -> bytes:
    """Reads at most `size` bytes."""
    if self.left is not None:
      self.left -= size
      if self.left < 0:
        raise _TooLargeError(f'its headers have more than {ALL_HEADERS} bytes')
    self._check(self.tell() + size)
    return self._file.read(size)

  def seek(self, place: int) -> int:
    """Moves to a place, counted from the start."""
    self._check(place)
    return self._file.seek(place)

  def _check(self, place: int) -> None:
    # The last read may ask for more than there is.
    if place > LONGEST + 2**20:
      raise _TooLargeError(f'it expands to more than {LONGEST} bytes')


@contextlib.contextmanager
def open_archive(source: Path, again: str) -> Iterator[Mapping[str, File]]:
  """Opens the regular files of an archive without extracting it.

  Args:
    source: Archive, .tar or .tar.gz.
    again: What to do if it is damaged.

  Yields:
    The files by name, without folders. Links and devices are left out.

  Raises:
    SourceError: If the archive is damaged or exceeds a bound.
    OSError: If the disk fails.
  """
  with contextlib.ExitStack() as stack:
    with tar_errors(source, again):
      file: Any = stack.enter_context(source.open('rb'))
      is_gzip = file.read(2) == _GZIP
      file.seek(0)
      if is_gzip:
        file = stack.enter_context(gzip.GzipFile(fileobj=file))
      bounded: Any = _Bounded(file)
      tar = stack.enter_context(
        tarfile.open(
          fileobj=bounded, mode='r:', tarinfo=counting_headers(HEADERS)
        )
      )
      # Links and devices are left out, and paths of members are not used.
      members = [m for m in tar if m.isreg() and not m.issparse()]
      bounded.left = None
      # tarfile stops before the checksum at the end of the compressed data.
      while bounded.read(2**20):
        pass

    def read(member: tarfile.TarInfo) -> bytes:
      with tar_errors(source, again):
        content = tar.extractfile(member)
        assert content is not None  # It is None for links and devices only.
        return content.read()

    yield {
      m.name.rsplit('/', 1)[-1]: File(m.size, functools.partial(read, m))
      for m in members
    }


def counting_headers(most: int) -> type[tarfile.TarInfo]:
  """Returns a class of headers that are bounded in number and length.

  Args:
    most: Maximum number of headers.
  """
  count = 0

  class Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: Any, encoding: Any, errors: Any) -> Any:
      nonlocal count
      header = super().frombuf(buf, encoding, errors)
      count += 1
      if count > most:
        raise _TooLargeError(f'it has more than {most} headers')
      fits = 0 <= header.size <= LONGEST_HEADER
      if header.type in _EXTENDED and not fits:
        raise _TooLargeError(f'it has a header of {header.size} bytes')
      if header.type == tarfile.GNUTYPE_SPARSE:
        raise _TooLargeError('it has a sparse file')
      return header

  return Header


@contextlib.contextmanager
def tar_errors(source: Path, again: str) -> Iterator[None]:
  """Replaces the errors of a damaged archive by `SourceError`.

  Args:
    source: Path of the archive, for the message.
    again: What to do if it is damaged.
  """
  try:
    yield
  except _TooLargeError as error:
    raise SourceError(
      f'{source} is not an official archive: {error}. {again}'
    ) from error
  except _DAMAGE as error:
    if isinstance(error, OSError) and error.errno:
      raise  # The disk failed; the archive may be intact.
    cause = str(error).partition(':')[0][:150] or type(error).__name__
    raise SourceError(
      f'{source} is not a complete tar archive, .tar or .tar.gz ({cause}).'
      f' {again}'
    ) from error


def md5(path: Path) -> str:
  """Returns the MD5 of a file, which finds damage but no intent."""
  with path.open('rb') as file:
    return hashlib.file_digest(
      file, lambda: hashlib.md5(usedforsecurity=False)
    ).hexdigest()
