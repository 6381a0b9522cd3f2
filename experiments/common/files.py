"""Writes files completely or not at all, and computes their hashes."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def open_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
  """Opens a binary file that takes its name only once it is complete.

  The content is on disk before the file replaces an older one. An error inside
  the context leaves the older file as it was and removes the new one.

  Args:
    path: File to write. Missing folders are created.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The process id keeps two writers of the same name apart.
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    with partial.open('wb') as file:
      yield file
      _flush(file)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file completely or not at all, in place of any older one."""
  with open_whole(path) as file:
    file.write(content)


def append(path: str | os.PathLike[str], content: bytes) -> None:
  """Appends to a file; the content is on disk when the function returns."""
  with open(path, 'ab') as file:
    file.write(content)
    _flush(file)


def sha256(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file's content as 64 hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _flush(file: IO[bytes]) -> None:
  file.flush()
  os.fsync(file.fileno())
