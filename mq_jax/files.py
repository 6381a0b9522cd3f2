"""Writes files completely or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO


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
  # The process id separates two processes that write the same file.
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
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
