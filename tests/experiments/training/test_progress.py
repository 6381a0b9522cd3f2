"""Tests the progress bar in a pseudo-terminal, and the lines in a file."""

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest
import rich.console
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.training import progress
from tests.experiments.terminal import frames, in_terminal


@contextlib.contextmanager
def bar_in_file(total=1000, start=0, **more):
  """Yields a bar that writes to a file, a clock to wait, and the list of lines.

  The lines are in the list after the end of the context.
  """
  out, now, lines = io.StringIO(), [1000.0], []

  def wait(seconds):
    now[0] += seconds

  live = progress.open_live(rich.console.Console(file=out), lambda: now[0])
  with progress.progress_bar(total, start, live=live, **more) as bar:
    yield bar, wait, lines
  lines += out.getvalue().splitlines()


# The widest texts: the epochs and steps of a long run, a loss that diverges, a
# full accuracy, the speed of a toy network, and more than four days left.
WIDEST = """
from experiments.training import progress
now = [0.]
with progress.progress_bar(
  1_800_000_000, 0, 'a run', epochs=1000, clock=lambda: now[0]
) as bar:
  bar.update(1_000, epoch=1000, loss=1.2345e+10, accuracy=100.)
  bar.log('x' * 150)
  now[0] = 1.
  bar.update(6_000, epoch=1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize('width', [80, 100, 120])
def test_bar_widest_texts_fit_on_one_line(width):
  written = in_terminal(WIDEST, width)
  shown = frames(written)
  last = shown[-1]
  for text in ('epoch 1000/1000', 'loss 1.234e+10', 'acc 100.00%'):
    assert text in last
  assert '5000 steps/s' in last
  assert last.endswith('99:59:59 left')
  assert '━━━' in last
  assert len(last) == width
  # The cursor moves up only to redraw more than one line.
  assert not re.search(r'\x1b\[\d*A', written)
  assert '…' not in written
  assert shown[0] == 'a run'
  assert 'x' * 150 in shown  # The terminal wraps it.
  assert written.count('a run') == 1
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')


@pytest.mark.slow
def test_bar_narrow_terminal_gets_one_line():
  written = in_terminal(WIDEST, 60)
  assert not re.search(r'\x1b\[\d*A', written)
  assert len(frames(written)[-1]) == 60


@pytest.mark.slow
def test_bar_after_error_shows_cursor():
  program = """
from experiments.training import progress
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
  assert frames(written)[-2].endswith('loss nan acc - - steps/s -:--:-- left')


@pytest.mark.slow
def test_bar_and_table_ascii_terminal_get_ascii():
  program = f"""{WIDEST}
from experiments.training import Result, print_summary
print_summary(Result(1., 2., 3., 4., 'a/path', [{{}}], []))
"""
  written = in_terminal(program, 80, PYTHONIOENCODING='ascii')
  assert written.isascii()
  assert '| a/path |' in written


@pytest.mark.slow
def test_bar_resumed_run_starts_at_its_step():
  program = """
from experiments.training import progress
with progress.progress_bar(100, 50) as bar:
  bar.update(50, epoch=6)
"""
  texts = frames(in_terminal(program, 100, NO_COLOR='1'))
  assert texts
  # Half of the bar is drawn in bold. Without colours, the other half is blank.
  for text in texts:
    bar = text.split(' loss')[0].removeprefix('epoch 6').removeprefix('epoch -')
    assert 0.4 < bar.count('━') / (len(bar) - 1) < 0.6


@pytest.mark.slow
def test_bar_force_color_in_file_prints_lines():
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


def test_lines_epoch_end_prints_one():
  with bar_in_file(200, description='run 7', epochs=4) as (bar, wait, lines):
    for epoch in (1, 2):
      for chunk in range(5):
        wait(0.5)
        bar.update(50 * epoch - 40 + 10 * chunk, epoch=epoch, loss=2 / epoch)
      bar.update(50 * epoch, epoch=epoch, loss=2 / epoch, accuracy=50 + epoch)
    bar.log('[done] in 5.0 s')
  assert lines == [
    'run 7',
    'epoch 1/4  step 50/200  loss 2.000  acc 51.00%  20 steps/s  0:00:08 left',
    'epoch 2/4  step 100/200  loss 1.000  acc 52.00%  20 steps/s  0:00:05 left',
    '[done] in 5.0 s',
  ]


def test_lines_same_accuracy_still_prints_one_per_epoch():
  with bar_in_file() as (bar, wait, lines):
    for step in range(1, 7):
      wait(1)
      bar.update(step, epoch=(step + 1) // 2, loss=1.0, accuracy=10.0)
  assert [line[:16] for line in lines] == [
    # The first accuracy is new. After it, only the next epoch prints a line.
    'epoch 1  step 1/',
    'epoch 1  step 2/',
    'epoch 2  step 4/',
    'epoch 3  step 6/',
  ]


def test_lines_long_epoch_prints_one_per_period():
  with bar_in_file() as (bar, wait, lines):
    for step in range(1, 101):
      wait(1)
      bar.update(step, epoch=1, loss=1.0)
  steps = [line.split()[3] for line in lines]
  assert steps == ['30/1000', '60/1000', '90/1000', '100/1000']


@settings(max_examples=50, deadline=None)
@given(
  st.lists(
    st.tuples(st.floats(0.01, 20), st.integers(0, 1)), min_size=1, max_size=200
  )
)
def test_lines_any_updates_are_neither_many_nor_missing(chunks):
  epochs = [1 + sum(new for _, new in chunks[:i]) for i in range(len(chunks))]
  with bar_in_file() as (bar, wait, lines):
    for step, (epoch, (seconds, _)) in enumerate(
      zip(epochs, chunks, strict=True), start=1
    ):
      wait(seconds)
      bar.update(step, epoch=epoch, loss=1.0)
  assert {int(line.split()[1]) for line in lines} == set(epochs)
  seconds = sum(seconds for seconds, _ in chunks)
  assert len(lines) <= len(set(epochs)) + seconds / progress.LINE_PERIOD
  assert len(set(lines)) == len(lines)


def test_speed_resumed_run_counts_recent_steps_only():
  with bar_in_file(total=20_000, start=9_000) as (bar, wait, lines):
    wait(500)  # Compilation.
    bar.update(9_010, epoch=1, accuracy=1.0)
    for chunk in range(1, 121):  # Slow at first: 1 step/s for 20 minutes, ...
      wait(10)
      bar.update(9_010 + 10 * chunk, epoch=1)
    bar.update(10_210, epoch=1, accuracy=2.0)
    for chunk in range(1, 61):  # ... and then 4 steps/s for half of that.
      wait(10)
      bar.update(10_210 + 40 * chunk, epoch=1)
    bar.update(12_610, epoch=1, accuracy=3.0)
  speeds = [
    next(line for line in lines if f'acc {accuracy}.00%' in line)
    for accuracy in (1, 2, 3)
  ]
  assert [line.split('%  ')[1] for line in speeds] == [
    '- steps/s  -:--:-- left',
    '1 steps/s  2:43:10 left',
    '4 steps/s  0:30:48 left',  # 7390 / 4 = 1847.5
  ]


def test_speed_updates_minutes_apart_is_shown():
  with bar_in_file() as (bar, wait, lines):
    for step in (100, 200, 400):
      wait(100)
      bar.update(step, epoch=step)
  assert [line.split('acc -  ')[1] for line in lines] == [
    '- steps/s  -:--:-- left',
    '1 steps/s  0:13:20 left',
    '1.5 steps/s  0:06:40 left',
  ]


def test_speed_long_evaluation_keeps_speed():
  with bar_in_file() as (bar, wait, lines):
    for epoch in (1, 2):
      wait(100)
      bar.update(100 * epoch, epoch=epoch)
      wait(100)
      bar.update(100 * epoch, epoch=epoch, accuracy=epoch)
  # An epoch takes 200 s, half of it the test.
  assert lines[-1].endswith('acc 2.00%  0.5 steps/s  0:26:40 left')
