"""Defers Ctrl-C and SIGTERM until a chunk of steps is done."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STANDARD_ERROR = 2  # File descriptor.


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], int | None]]:
  """Defers both signals, so that a run can save before it exits.

  A second signal of the same kind acts at once, with its usual effect. A notice
  on standard error says both. Python delivers signals to the main thread alone,
  so in any other thread the context changes nothing.

  A signal that arrives after the last call of the yielded function acts at the
  end of the context.

  Yields:
    A function that returns the number of the signal that arrived, or None.

  Raises:
    KeyboardInterrupt: At the end of the context, if Ctrl-C arrived.
    SystemExit: At the end of the context, if SIGTERM arrived; its code is 143.
  """
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda: None
    return
  # getsignal returns None for a handler that was not set by Python. Such a
  # handler cannot be restored.
  handlers = {
    int(number): signal.getsignal(number) or signal.SIG_DFL
    for number in SIGNALS
  }

  def receive(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)
    signal.signal(number, handlers[number])
    name = signal.Signals(number).name
    # The first line break ends the line of ^C, or of a bar. A print would be an
    # error if the signal arrived during another print.
    notice = (
      f'\n{name} received: the run stops after the current steps, and a rerun'
      f' resumes there. A second {name} stops at once, without saving.\n'
    )
    with contextlib.suppress(OSError):
      os.write(_STANDARD_ERROR, notice.encode())

  for number in SIGNALS:
    signal.signal(number, receive)
  try:
    yield lambda: received[0] if received else None
  finally:
    for number in SIGNALS:
      signal.signal(number, handlers[number])
  if received:
    if received[0] == signal.SIGINT:
      raise KeyboardInterrupt
    raise SystemExit(128 + received[0])  # The exit status that a shell reports.
