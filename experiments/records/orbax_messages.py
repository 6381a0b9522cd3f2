"""Errors and messages of orbax."""

import contextlib
import functools
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging

# Message of asyncio about tasks that an error has ended.
_CLOSED = 'Event loop is closed'


@contextlib.contextmanager
def failures() -> Iterator[list[str]]:
  """Yields a list that receives the cause if the context ends with an error.

  Orbax raises errors of many classes, and its threads print their own.
  """
  _hide_remains()
  causes: list[str] = []
  try:
    yield causes
  except Exception as error:
    causes.append(cause_of(error))


def cause_of(error: Exception) -> str:
  """Returns the cause of an error of orbax, whose messages fill pages."""
  if number := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(number[1]))
  return (str(error).splitlines() or [''])[0][:200] or type(error).__name__


@functools.cache
def _hide_remains() -> None:
  """Hides what the threads of orbax print after an error.

  They print some of it while the process ends, so nothing is restored.
  """
  show, show_unraisable = sys.excepthook, sys.unraisablehook

  def show_other(kind: Any, error: Any, traceback: Any) -> None:
    if _CLOSED not in str(error):
      show(kind, error, traceback)

  def show_other_unraisable(unraisable: Any) -> None:
    if _CLOSED not in str(unraisable.exc_value):
      show_unraisable(unraisable)

  sys.excepthook, sys.unraisablehook = show_other, show_other_unraisable
  logging.getLogger('asyncio').addFilter(
    lambda record: 'was never retrieved' not in record.getMessage()
  )
  absl.logging.get_absl_handler().addFilter(
    lambda record: '_SignalingThread.run() raised' not in record.getMessage()
  )


def no_orbax_chatter(record: logging.LogRecord) -> bool:
  """Returns False for messages of orbax, to filter a log."""
  return 'orbax' not in Path(record.pathname).parts
