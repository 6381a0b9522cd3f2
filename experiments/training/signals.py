"""Ctrl-C and SIGTERM, noticed between chunks of steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], int | None]]:
  """Holds both signals back, so that a run can save before it leaves.

  A second signal of the same kind acts at once, as it always does. A signal
  that came after the last look is acted upon at the end. Outside of the main
  thread, where Python takes no signals, nothing is changed.

  Yields:
    A function that gives the number of the signal that came, or None.
  """
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda: None
    return
  # None stands for a handler that is not Python's: it cannot be put back.
  before = {
    int(number): signal.getsignal(number) or signal.SIG_DFL
    for number in SIGNALS
  }

  def receive(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)
    signal.signal(number, before[number])

  for number in SIGNALS:
    signal.signal(number, receive)
  try:
    yield lambda: received[0] if received else None
  finally:
    for number in SIGNALS:
      signal.signal(number, before[number])
  if received:
    leave(received[0])


def leave(number: int) -> None:
  """Ends as the signal would have: KeyboardInterrupt, or exit status 143."""
  if number == signal.SIGINT:
    raise KeyboardInterrupt
  raise SystemExit(128 + number)
