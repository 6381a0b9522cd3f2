"""Appends to files, and computes their hashes."""

import hashlib
import os


def append(path: str | os.PathLike[str], content: bytes) -> None:
  """Appends to a file; the content is on disk when the function returns."""
  with open(path, 'ab') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def sha256(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file's content as 64 hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
