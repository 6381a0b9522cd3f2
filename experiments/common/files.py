"""Appends to files, locks them, computes their hashes, removes leftovers."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import time
from typing import IO

# The name that `mq_jax.files.open_atomic` gives to a file until it is complete.
_PARTIAL = re.compile(r'\..*\.(\d+)\.partial')
_LONGEST_WRITE = 3600.0  # Seconds.


def append(path: str | os.PathLike[str], content: bytes) -> None:
  """Appends to a file; the content is on disk when the function returns."""
  with open(path, 'ab') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def try_lock(file: IO[str]) -> bool:
  """Locks an open file; returns False if another process has the lock.

  The operating system drops the lock when the file is closed or the process
  ends, however it ends.

  Raises:
    OSError: If the file system has no locks.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def remove_leftovers(folder: str | os.PathLike[str], *, mine: bool) -> None:
  """Removes incomplete files that killed processes have left in a folder.

  Args:
    folder: Folder, which may be missing.
    mine: True if no other process writes to the folder. Otherwise a file stays
      while a process of its number is running, for at most an hour.
  """
  for path in pathlib.Path(folder).glob('.*.partial'):
    match = _PARTIAL.fullmatch(path.name)
    if match and (mine or not _is_being_written(path, int(match[1]))):
      path.unlink(missing_ok=True)


def remove_old_folders(folder: str | os.PathLike[str], prefix: str) -> None:
  """Removes temporary folders of killed processes, older than an hour.

  Args:
    folder: Folder that contains them.
    prefix: First characters of their names.
  """
  for path in pathlib.Path(folder).glob(f'{prefix}*'):
    with contextlib.suppress(FileNotFoundError):
      if time.time() - path.stat().st_mtime > _LONGEST_WRITE:
        shutil.rmtree(path, ignore_errors=True)


def _is_being_written(path: pathlib.Path, process: int) -> bool:
  try:
    os.kill(process, 0)  # Signal 0 only asks whether the process exists.
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass
  try:
    return time.time() - path.stat().st_mtime < _LONGEST_WRITE
  except FileNotFoundError:
    return False


def sha256(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file's content as 64 hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
