"""Defers Ctrl-C and SIGTERM until a chunk of steps is done.

Several processes that train together stop after the same chunk, whichever of
them received the signal.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from experiments.common import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STANDARD_ERROR = 2  # File descriptor.


@contextlib.contextmanager
def agreed_signals() -> Iterator[Callable[[], int | None]]:
  """Does what `defer_signals` does, with one answer for all processes.

  With several processes JAX receives SIGTERM. A call of the yielded function
  waits for the other processes, which must call it equally often.

  Raises:
    KeyboardInterrupt: As `defer_signals`, in all processes.
    SystemExit: As `defer_signals`, in all processes.
  """
  if not processes.are_several():
    with defer_signals() as received:
      yield received
    return
  agreed = 0

  def number() -> int | None:
    nonlocal agreed
    preempted = signal.SIGTERM if processes.is_preempted() else 0
    agreed = agreed or processes.largest(max(preempted, own() or 0))
    return agreed or None

  with defer_signals((signal.SIGINT,)) as own:
    yield number
  _act(agreed)


@contextlib.contextmanager
def defer_signals(
  numbers: Sequence[signal.Signals] = SIGNALS,
) -> Iterator[Callable[[], int | None]]:
  """Defers signals, so that a run can save before it exits.

  A second signal of the same kind acts at once, with its usual effect. A notice
  on standard error says both. Python delivers signals to the main thread alone,
  so in any other thread the context changes nothing.

  A signal that arrives after the last call of the yielded function acts at the
  end of the context.

  Args:
    numbers: Signals to defer.

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
    for number in numbers
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

  for number in numbers:
    signal.signal(number, receive)
  try:
    yield lambda: received[0] if received else None
  finally:
    for number in numbers:
      signal.signal(number, handlers[number])
  _act(received[0] if received else 0)


def _act(number: int) -> None:
  """Raises the error by which a signal ends a run; 0 is no signal."""
  if number == signal.SIGINT:
    raise KeyboardInterrupt
  if number:
    raise SystemExit(128 + number)  # The exit status that a shell reports.
