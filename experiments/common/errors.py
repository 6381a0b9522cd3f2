"""Errors that a person can mend: the message alone says what and how.

A command shows them as one line and without a traceback. Whatever else is
raised is a defect, and keeps its traceback.
"""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
  """The base of them all."""


class InvalidError(UserError, ValueError):
  """A value, a file or a folder is not what the run needs."""


class ConfigError(InvalidError):
  """A configuration that no run can have; the message names the remedy."""


class MissingError(UserError, FileNotFoundError):
  """A file or a folder is not there."""


class UnreadableError(UserError, RuntimeError):
  """A file or a folder of our own is damaged."""


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
  """Exits with the message alone where that says all that there is to say."""
  # What only predicts has no need of absl.
  from absl import logging

  # Below this level JAX tells of every kind of device that it does not find.
  logging.set_verbosity(logging.WARNING)
  try:
    yield
  except UserError as error:
    sys.exit(f'{error}')
  except KeyboardInterrupt:
    sys.exit(130)
