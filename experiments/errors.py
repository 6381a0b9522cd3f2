"""Errors that a person can mend: the message alone says what and how.

A command shows them as one line and without a traceback. Whatever else is
raised is a defect, and keeps its traceback.
"""


class UserError(Exception):
  """The base of them all."""


class InvalidError(UserError, ValueError):
  """A value, a file or a folder is not what the run needs."""


class MissingError(UserError, FileNotFoundError):
  """A file or a folder is not there."""


class UnreadableError(UserError, RuntimeError):
  """A file or a folder of our own is damaged."""
