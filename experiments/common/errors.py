"""Errors that the user can fix: the message says what is wrong and what to do.

A command prints only the message, without a traceback. Any other exception is a
defect and keeps its traceback.
"""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
  """The base of all errors that the user can fix."""


class InvalidError(UserError, ValueError):
  """A value, a file or a folder is not what the run needs."""


class ConfigError(InvalidError):
  """A configuration that no run can have; the message names the remedy."""


class MissingError(UserError, FileNotFoundError):
  """A file or a folder does not exist."""


class UnreadableError(UserError, RuntimeError):
  """A file or a folder that this project wrote is damaged."""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
  """Exits with the message alone on a `UserError`, silently on Ctrl-C."""
  # Commands that only predict run without absl.
  from absl import logging

  # Below this level JAX reports every kind of device that it does not find.
  logging.set_verbosity(logging.WARNING)
  try:
    yield
  except UserError as error:
    sys.exit(f'{error}')
  except KeyboardInterrupt:
    sys.exit(130)
