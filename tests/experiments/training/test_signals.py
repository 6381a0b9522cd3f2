"""Tests that signals take effect after a run has saved, and are never lost."""

import signal
import subprocess
import sys
import threading

import pytest

from experiments.common import processes
from experiments.training import signals


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_defer_signals_signal_is_only_recorded(number, capfd):
  before = signal.getsignal(number)
  with pytest.raises(ZeroDivisionError), signals.defer_signals() as received:  # noqa: PT012
    assert received() is None
    signal.raise_signal(number)
    assert received() == number
    notice = f'{number.name} received: the run stops after the current steps'
    assert notice in capfd.readouterr().err
    # The signal does not hide an error.
    raise ZeroDivisionError
  assert signal.getsignal(number) == before


def test_defer_signals_no_signal_changes_nothing():
  with signals.defer_signals() as received:
    assert received() is None


@pytest.mark.parametrize('is_read', [False, True])
@pytest.mark.parametrize(
  ('number', 'error', 'code'),
  [
    (signal.SIGINT, KeyboardInterrupt, ()),
    (signal.SIGTERM, SystemExit, (143,)),
  ],
)
def test_defer_signals_signal_acts_at_end(number, error, code, is_read):
  with pytest.raises(error) as raised, signals.defer_signals() as received:  # noqa: PT012
    signal.raise_signal(number)
    assert not is_read or received() == number
  assert raised.value.args == code


@pytest.fixture
def interruptible():
  """Sets SIGINT as in a terminal, also where tests run in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
def test_defer_signals_second_ctrl_c_takes_effect_at_once():
  def twice():
    with signals.defer_signals():
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)
      pytest.fail('the second signal was deferred')

  with pytest.raises(KeyboardInterrupt):
    twice()


@pytest.mark.slow
def test_defer_signals_second_sigterm_kills():
  program = (
    'import signal\n'
    'from experiments.training import signals\n'
    'with signals.defer_signals():\n'
    '  signal.raise_signal(signal.SIGTERM)\n'
    "  print('deferred', flush=True)\n"
    '  signal.raise_signal(signal.SIGTERM)\n'
    "  print('again', flush=True)\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (-signal.SIGTERM, 'deferred\n')


def test_defer_signals_non_python_handler_becomes_default(monkeypatch):
  monkeypatch.setattr(signal, 'getsignal', lambda number: None)
  before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
  interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(SystemExit), signals.defer_signals():
      signal.raise_signal(signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupts)


def test_defer_signals_other_thread_sets_no_handler():
  before = [signal.getsignal(number) for number in signals.SIGNALS]
  seen = []

  def work():
    with signals.defer_signals() as received:
      seen.append(received())
      seen.append([signal.getsignal(number) for number in signals.SIGNALS])

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [None, before]


@pytest.mark.usefixtures('interruptible')
@pytest.mark.parametrize(
  ('calls', 'preempted', 'other', 'error', 'code'),
  [
    # The number that another process gives, before and after its signal.
    (2, [False] * 3, [0, signal.SIGINT, 0], KeyboardInterrupt, ()),
    (1, [True], [0], SystemExit, (143,)),
  ],
)
def test_agreed_signals_signal_of_other_process_acts_here(
  monkeypatch, calls, preempted, other, error, code
):
  given = iter(other)
  monkeypatch.setattr(processes, 'are_several', lambda: True)
  monkeypatch.setattr(processes, 'is_preempted', iter(preempted).__next__)
  monkeypatch.setattr(
    processes, 'largest', lambda number: max(number, next(given))
  )
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(error) as raised, signals.agreed_signals() as number:  # noqa: PT012
    # JAX receives SIGTERM.
    assert signal.getsignal(signal.SIGTERM) == before
    answers = [number() for _ in range(calls)]
    assert answers[:-1] == [None] * (calls - 1)
    assert answers[-1] is not None
  assert raised.value.args == code


@pytest.mark.usefixtures('interruptible')
def test_agreed_signals_own_ctrl_c_is_sent_to_others(monkeypatch):
  sent = []
  monkeypatch.setattr(processes, 'are_several', lambda: True)
  monkeypatch.setattr(processes, 'is_preempted', lambda: False)
  monkeypatch.setattr(
    processes, 'largest', lambda number: sent.append(number) or number
  )

  def run():
    with signals.agreed_signals() as number:
      assert number() is None
      signal.raise_signal(signal.SIGINT)
      assert number() == signal.SIGINT

  with pytest.raises(KeyboardInterrupt):
    run()
  assert sent == [0, signal.SIGINT]
