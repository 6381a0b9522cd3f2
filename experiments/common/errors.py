"""Errors that a user can correct: the message names the problem and the remedy.

A command prints the message without a traceback. Any other exception is a
defect and keeps its traceback.
"""

import contextlib
import errno
import logging
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

# Errors of the operating system that a user can correct.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}
_OTHER = {errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE}


class UserError(Exception):
  """The base class of errors that a user can correct."""


class InvalidError(UserError, ValueError):
  """A value, a file or a folder is not what the run needs."""


class ConfigError(InvalidError):
  """A configuration is invalid."""


class MissingError(UserError, FileNotFoundError):
  """A file, a folder or a package is missing."""


class UnreadableError(UserError, RuntimeError):
  """A file or a folder that this program wrote is damaged."""


class UnwritableError(UserError, OSError):
  """A file or a folder cannot be written."""


class BusyError(UserError, RuntimeError):
  """Another process is working in a folder."""


class UnreachableError(UserError, RuntimeError):
  """Another process of the run cannot be reached."""


class PeerError(UserError, RuntimeError):
  """Another process of the run has failed, and this process ends with it.

  Attributes:
    is_shown: False if the other process prints the message.
  """

  def __init__(self, message: str, *, is_shown: bool) -> None:
    super().__init__(message)
    self.is_shown = is_shown


def report_missing_package(
  kind: type[BaseException],
  error: BaseException,
  trace: TracebackType | None,
) -> None:
  """Prints one line if a package is missing; otherwise the traceback.

  It replaces `sys.excepthook` in commands, because their first lines already
  import packages that `pip install mq_jax` does not install.
  """
  name = getattr(error, 'name', None) or ''
  ours = name.split('.')[0] in ('experiments', 'mq_jax')
  if not isinstance(error, ModuleNotFoundError) or ours:
    sys.__excepthook__(kind, error, trace)
    return
  frames = traceback.extract_tb(trace)
  place = f', but {frames[-1].filename} needs it' if frames else ''
  print(
    f'The package {name} is not installed{place}. Run pip install -e'
    " '.[experiments]' in the folder of setup.cfg.",
    file=sys.stderr,
  )


@contextlib.contextmanager
def exit_on_user_error(other: type[Exception] = UserError) -> Iterator[None]:
  """Exits with the message alone when a `UserError` is raised.

  The same holds for an `OSError` that a user can correct, such as a full disk
  or a missing permission.

  Args:
    other: Class of other errors that the user of the command can correct.
  """
  # Below this level JAX reports every kind of device that it does not find.
  logging.getLogger().setLevel(logging.WARNING)
  try:
    yield
  except PeerError as error:
    sys.exit(f'{error}' if error.is_shown else 1)
  except (UserError, other) as error:
    sys.exit(f'{error}')
  except OSError as error:
    if message := _message_about_files(error):
      sys.exit(message)
    raise
  except KeyboardInterrupt:
    sys.exit(130)


def _message_about_files(error: OSError) -> str:
  """Returns what is wrong and what to do; '' if a user cannot correct it."""
  if error.errno in _FULL:
    remedy = 'Free space on the disk, then rerun the command to resume.'
  elif error.errno in _FORBIDDEN:
    remedy = 'Correct the permissions, or use another folder.'
  elif error.errno in _IN_PLACE:
    remedy = 'Move that file or folder away, or use another folder.'
  elif error.errno in _OTHER:
    remedy = 'Check the disk and the path.'
  else:
    return ''
  place = f'{error.filename}: ' if error.filename else ''
  return f'{place}{error.strerror}. {remedy}'
