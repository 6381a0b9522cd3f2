"""Errors that a user can correct: the message names the problem and the remedy.

A command prints the message without a traceback. Any other exception is a
defect and keeps its traceback.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator


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


@contextlib.contextmanager
def exit_on_user_error(other: type[Exception] = UserError) -> Iterator[None]:
  """Exits with the message alone when a `UserError` is raised.

  Args:
    other: Class of other errors that the user of the command can correct.
  """
  # Below this level JAX reports every kind of device that it does not find.
  logging.getLogger().setLevel(logging.WARNING)
  try:
    yield
  except (UserError, other) as error:
    sys.exit(f'{error}')
  except KeyboardInterrupt:
    sys.exit(130)
