"""The bar in a real pseudo-terminal, the lines without one, and the table."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest
import rich.console
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.training import progress


def in_terminal(program: str, width: int, **env: str) -> str:
  """What a Python program writes into a terminal of so many columns."""
  outer, inner = pty.openpty()
  fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack('HHHH', 24, width, 0, 0))
  inherited = {k: v for k, v in os.environ.items() if k != 'COLUMNS'}
  child = subprocess.Popen(
    [sys.executable, '-c', program],
    stdin=inner,
    stdout=inner,
    stderr=inner,
    env={**inherited, 'TERM': 'xterm-256color', **env},
  )
  os.close(inner)
  written = b''
  while True:
    try:
      chunk = os.read(outer, 65536)
    except OSError:  # Linux: the child closed its end.
      break
    if not chunk:
      break
    written += chunk
  os.close(outer)
  assert child.wait() == 0, written.decode()
  return written.decode()


def frames(written: str) -> list[str]:
  """The texts that stood on one line of the terminal at some time."""
  plain = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', written)
  return [text for text in re.split(r'[\r\n]+', plain) if text.strip()]


def without_terminal(
  use: Callable[[progress.Bar, Callable[[float], None]], None],
  total: int = 1000,
  start: int = 0,
  **more: object,
) -> list[str]:
  """The lines that go into a file; `use` gets the bar and a clock to wait."""
  out, now = io.StringIO(), [1000.0]

  def wait(seconds: float) -> None:
    now[0] += seconds

  console = rich.console.Console(file=out)
  with progress.progress_bar(
    total, start, console=console, clock=lambda: now[0], **more
  ) as bar:
    use(bar, wait)
  return out.getvalue().splitlines()


# The widest texts there are: a long run's epochs and steps, a loss that
# diverges, a full accuracy, a rate of a toy network, more than four days left.
WIDEST = """
import time
from experiments import display, summary
now = iter([0., 1.] + [2.] * 1000)
with progress.progress_bar(
  1_800_000_000, 0, 'a run', epochs=1000, clock=lambda: next(now)
) as bar:
  bar.update(1_000, epoch=1000, loss=1.2345e+10, accuracy=100.)
  bar.log('x' * 150)
  bar.update(6_000, epoch=1000)
"""


@pytest.mark.parametrize('width', [80, 100, 120])
def test_the_bar_fits_on_one_line_of_a_terminal(width: int) -> None:
  written = in_terminal(WIDEST, width)
  shown = frames(written)
  last = shown[-1]
  for text in ('epoch 1000/1000', 'loss 1.234e+10', 'acc 100.00%'):
    assert text in last
  assert '5000 steps/s' in last
  assert last.endswith('99:59:59 left')
  assert '━━━' in last
  assert len(last) == width
  # The cursor goes up where more than one line has to be drawn anew.
  assert not re.search(r'\x1b\[\d*A', written)
  assert '…' not in written
  assert shown[0] == 'a run'
  assert 'x' * 150 in shown  # Left to the terminal to wrap.
  assert written.count('a run') == 1
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')


def test_a_narrow_terminal_gets_one_line_all_the_same() -> None:
  written = in_terminal(WIDEST, 60)
  assert not re.search(r'\x1b\[\d*A', written)
  assert len(frames(written)[-1]) == 60


def test_the_bar_also_leaves_the_cursor_after_an_error() -> None:
  program = """
from experiments import display
try:
  with progress.progress_bar(10) as bar:
    bar.update(3, epoch=1, loss=float('nan'))
    raise KeyboardInterrupt
except KeyboardInterrupt:
  print('after')
"""
  written = in_terminal(program, 80)
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')
  assert frames(written)[-1] == 'after'
  assert 'loss nan acc - - steps/s -:--:-- left' in written


def test_a_terminal_of_ascii_gets_ascii() -> None:
  program = f"{WIDEST}console.print_summary(1., 2., 3., 4., 'a/path')"
  written = in_terminal(program, 80, PYTHONIOENCODING='ascii')
  assert written.isascii()
  assert '| a/path |' in written


def test_a_resumed_bar_starts_where_it_was_stopped() -> None:
  program = """
from experiments import display
with progress.progress_bar(100, 50) as bar:
  bar.update(50, epoch=6)
"""
  texts = frames(in_terminal(program, 100, NO_COLOR='1'))
  assert texts
  # Half of the bar is drawn (in bold), the rest is blank without colours.
  for text in texts:
    bar = text.split(' loss')[0].removeprefix('epoch 6').removeprefix('epoch -')
    assert 0.4 < bar.count('━') / (len(bar) - 1) < 0.6


def test_forced_colours_do_not_make_a_terminal_of_a_file() -> None:
  done = subprocess.run(
    [sys.executable, '-c', WIDEST],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, 'FORCE_COLOR': '1'},
  )
  assert '\x1b' not in done.stdout
  assert done.stdout.splitlines() == [
    'a run',
    'epoch 1000/1000  step 1000/1800000000  loss 1.234e+10  acc 100.00%'
    '  - steps/s  -:--:-- left',
    'x' * 150,
    'epoch 1000/1000  step 6000/1800000000  loss 1.234e+10  acc 100.00%'
    '  5000 steps/s  99:59:59 left',
  ]


def test_a_line_an_epoch() -> None:
  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    for epoch in (1, 2):
      for chunk in range(5):
        wait(0.5)
        bar.update(50 * epoch - 40 + 10 * chunk, epoch=epoch, loss=2 / epoch)
      bar.update(50 * epoch, epoch=epoch, loss=2 / epoch, accuracy=50 + epoch)
    bar.log('[done] in 5.0 s')

  assert without_terminal(use, total=200, description='run 7', epochs=4) == [
    'run 7',
    'epoch 1/4  step 50/200  loss 2.000  acc 51.00%  20 steps/s  0:00:08 left',
    'epoch 2/4  step 100/200  loss 1.000  acc 52.00%  20 steps/s  0:00:05 left',
    '[done] in 5.0 s',
  ]


def test_epochs_of_the_same_accuracy_have_their_lines_too() -> None:
  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    for step in range(1, 7):
      wait(1)
      bar.update(step, epoch=(step + 1) // 2, loss=1.0, accuracy=10.0)

  lines = without_terminal(use)
  assert [line[:16] for line in lines] == [
    # The first accuracy is news; from then on the next epoch gives the sign.
    'epoch 1  step 1/',
    'epoch 1  step 2/',
    'epoch 2  step 4/',
    'epoch 3  step 6/',
  ]


def test_a_long_epoch_has_a_line_now_and_then() -> None:
  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    for step in range(1, 101):
      wait(1)
      bar.update(step, epoch=1, loss=1.0)

  steps = [line.split()[3] for line in without_terminal(use)]
  assert steps == ['30/1000', '60/1000', '90/1000', '100/1000']


@settings(max_examples=50, deadline=None)
@given(
  st.lists(
    st.tuples(st.floats(0.01, 20), st.integers(0, 1)), min_size=1, max_size=200
  )
)
def test_lines_are_neither_many_nor_missing(
  chunks: list[tuple[float, int]],
) -> None:
  epochs = [1 + sum(new for _, new in chunks[:i]) for i in range(len(chunks))]

  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    for step, (epoch, (seconds, _)) in enumerate(
      zip(epochs, chunks, strict=True), start=1
    ):
      wait(seconds)
      bar.update(step, epoch=epoch, loss=1.0)

  lines = without_terminal(use)
  assert {int(line.split()[1]) for line in lines} == set(epochs)
  seconds = sum(seconds for seconds, _ in chunks)
  assert len(lines) <= len(set(epochs)) + seconds / progress.RECENT
  assert len(set(lines)) == len(lines)


def test_speed_is_recent_and_time_left_sane_after_a_resume() -> None:
  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    wait(500)  # Compilation.
    bar.update(9_010, epoch=1, accuracy=1.0)
    for step in range(1, 61):  # Slow at first: 1 step/s for a minute, ...
      wait(1)
      bar.update(9_010 + step, epoch=1)
    bar.update(9_070, epoch=1, accuracy=2.0)
    for step in range(1, 31):  # ... and then 4 steps/s for half of one.
      wait(1)
      bar.update(9_070 + 4 * step, epoch=1)
    bar.update(9_190, epoch=1, accuracy=3.0)

  lines = without_terminal(use, total=10_000, start=9_000)
  speeds = [
    next(line for line in lines if f'acc {accuracy}.00%' in line)
    for accuracy in (1, 2, 3)
  ]
  assert [line.split('%  ')[1] for line in speeds] == [
    '- steps/s  -:--:-- left',
    '1 steps/s  0:15:30 left',
    '4 steps/s  0:03:22 left',  # 810 / 4 = 202.5
  ]


def test_updates_further_apart_than_the_window_have_a_speed() -> None:
  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    for step in (100, 200, 400):
      wait(100)
      bar.update(step, epoch=step)

  lines = without_terminal(use)
  assert [line.split('acc -  ')[1] for line in lines] == [
    '- steps/s  -:--:-- left',
    '1 steps/s  0:13:20 left',
    '2 steps/s  0:05:00 left',
  ]


def test_a_long_test_between_epochs_leaves_the_speed() -> None:
  def use(bar: progress.Bar, wait: Callable[[float], None]) -> None:
    for epoch in (1, 2):
      wait(100)
      bar.update(100 * epoch, epoch=epoch)
      wait(100)
      bar.update(100 * epoch, epoch=epoch, accuracy=epoch)

  # An epoch takes 200 s, half of it the test.
  last = without_terminal(use)[-1]
  assert last.endswith('acc 2.00%  0.5 steps/s  0:26:40 left')


LONG_PATH = '/home/someone/runs/' + 'resnet20_dorefa_1bit_multifc_sgd/' * 3


@pytest.mark.parametrize('width', [80, 120])
def test_the_table_has_every_number_in_one_piece(width: int) -> None:
  console = rich.console.Console(
    record=True, width=width, file=io.StringIO(), legacy_windows=False
  )
  console.print_summary(
    92.13, 91.7349, 100.0, 12.3456, 'runs/a/model.npz', console=console
  )
  assert console.export_text().splitlines() == [
    '┌───────────────────────────────────────────┬──────────────────┐',
    '│ full-precision test accuracy              │           92.13% │',
    '│ test accuracy, mean of the last 10 epochs │           91.73% │',
    '│ test accuracy, best epoch                 │          100.00% │',
    '│ seconds per epoch                         │             12.3 │',
    '│ quantized parameters                      │ runs/a/model.npz │',
    '└───────────────────────────────────────────┴──────────────────┘',
  ]


@pytest.mark.parametrize('width', [80, 120])
def test_a_path_too_long_for_the_table_stays_in_one_piece(width: int) -> None:
  console = rich.console.Console(record=True, width=width, file=io.StringIO())
  console.print_summary(1.0, 2.0, 3.0, 4.0, LONG_PATH, console=console)
  lines = console.export_text().splitlines()
  assert lines[-1] == f'quantized parameters: {LONG_PATH}'
  assert {len(line) for line in lines[:-1]} == {len(lines[0])}
  assert len(lines[0]) <= width


@pytest.mark.parametrize('spare', [0, 1])
def test_a_value_is_in_the_table_up_to_the_last_column(spare: int) -> None:
  out = io.StringIO()
  console = rich.console.Console(file=out, width=40)
  value = 'x' * (40 - len('name') - 7 + spare)
  console.final_table({'name': value}, 'A title', console=console)
  lines = out.getvalue().splitlines()
  assert lines[0].strip() == 'A title'
  if spare:
    assert lines[-1] == f'name: {value}'
  else:
    assert f'│ name │ {value} │' in lines


def test_a_study_has_a_bar_for_the_whole_and_a_line_for_each_run() -> None:
  program = """
from experiments import study_display
with study_display.opened(2) as shown:
  for done, name in enumerate(['first', 'second']):
    with shown.of(done, name)(10, 0, 'not shown', epochs=2) as bar:
      bar.update(5, epoch=1, loss=1.5)
      bar.update(10, epoch=2, loss=1.25 + done, accuracy=70.)
"""
  written = in_terminal(program, 100, NO_COLOR='1')
  plain = re.sub(r'\x1b\[[\d;?]*[A-Za-z]', '', written)
  for line in (
    '[1/2] first',
    'epoch 2/2  loss 1.250  acc 70.00%',
    '[2/2] second',
    'epoch 2/2  loss 2.250  acc 70.00%',
  ):
    assert plain.count(line) == 1, line
  assert 'run 2/2' in plain
  assert 'not shown' not in plain
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')
