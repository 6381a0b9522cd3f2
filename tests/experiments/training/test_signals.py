"""Signals are held back until a run has saved, and never lost."""

import signal
import subprocess
import sys
import threading

import pytest

from experiments.training import signals


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noticed_and_does_nothing_else(number):
  before = signal.getsignal(number)
  with pytest.raises(ZeroDivisionError), signals.noticed() as came:  # noqa: PT012
    assert came() is None
    signal.raise_signal(number)
    assert came() == number
    # An error on the way out is not hidden by the signal.
    raise ZeroDivisionError
  assert signal.getsignal(number) == before


def test_nothing_came_nothing_happens():
  with signals.noticed() as came:
    assert came() is None


@pytest.mark.parametrize(
  ('number', 'leaves'),
  [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_a_signal_after_the_last_look_is_acted_upon(number, leaves):
  with pytest.raises(leaves), signals.noticed():
    signal.raise_signal(number)


def test_leaving_has_the_shell_s_exit_status():
  with pytest.raises(SystemExit) as error:
    signals.leave(signal.SIGTERM)
  assert error.value.code == 143
  with pytest.raises(KeyboardInterrupt):
    signals.leave(signal.SIGINT)


@pytest.fixture
def interruptible():
  """SIGINT as in a terminal, also where these tests run in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
def test_a_second_ctrl_c_acts_at_once():
  def twice():
    with signals.noticed():
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)
      pytest.fail('the second one was held back')

  with pytest.raises(KeyboardInterrupt):
    twice()


def test_a_second_sigterm_kills():
  program = (
    'import signal\n'
    'from experiments import interrupt\n'
    'with signals.noticed():\n'
    '  signal.raise_signal(signal.SIGTERM)\n'
    "  print('held', flush=True)\n"
    '  signal.raise_signal(signal.SIGTERM)\n'
    "  print('again', flush=True)\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (-signal.SIGTERM, 'held\n')


def test_a_handler_that_is_not_python_s_gives_way(monkeypatch):
  monkeypatch.setattr(signal, 'getsignal', lambda number: None)
  before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
  interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(SystemExit), signals.noticed():
      signal.raise_signal(signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupts)


def test_another_thread_takes_no_signals_and_sets_none():
  before = [signal.getsignal(number) for number in signals.SIGNALS]
  seen = []

  def work():
    with signals.noticed() as came:
      seen.append(came())
      seen.append([signal.getsignal(number) for number in signals.SIGNALS])

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [None, before]
