"""Tests the progress bar in a pseudo-terminal, and the lines in a file."""

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest
import rich.console

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
  1_800_000_000, 0, 'a run', epochs=1000, waiting='compiling', device='cpu',
  clock=lambda: now[0]
) as bar:
  bar.update(1_000, epoch=1000, loss=1.2345e+10)
  bar.end_epoch(epoch=1000, test_loss=1.5, accuracy=100.)
  bar.log('x' * 150)
  now[0] = 1.
  bar.update(6_000, epoch=1000, loss=1.2345e+10)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ('width', 'shown', 'hidden'),
  [
    (44, [], ['left', 'steps/s', '━', 'cpu']),
    (80, ['99:59:59 left', '━━━'], ['steps/s', 'cpu']),
    (160, ['99:59:59 left', '━━━', '5000 steps/s', 'cpu', 'test loss 1.5'], []),
  ],
)
def test_bar_leaves_out_what_has_no_room(width, shown, hidden):
  written = in_terminal(WIDEST, width)
  texts = frames(written)
  for text in ('epoch 1000/1000', 'loss 1.234e+10', *shown):
    assert text in texts[-1]
  assert not any(text in texts[-1] for text in hidden)
  assert len(texts[-1]) <= width
  # The cursor moves up only to redraw more than one line.
  assert not re.search(r'\x1b\[\d*A', written)
  assert '…' not in written
  assert texts[0] == 'a run'
  assert 'x' * 150 in texts  # The terminal wraps it.
  assert any(text.startswith('compiling') for text in texts)
  past = 'epoch 1000/1000 loss 1.234e+10'
  assert any(text.startswith(past) and '━' not in text for text in texts)
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')


@pytest.mark.slow
def test_bar_after_error_shows_cursor():
  program = """
from experiments.training import progress
try:
  with progress.progress_bar(10, epochs=1) as bar:
    bar.update(3, epoch=1, loss=float('nan'))
    raise KeyboardInterrupt
except KeyboardInterrupt:
  print('after')
"""
  written = in_terminal(program, 80)
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')
  assert frames(written)[-1] == 'after'
  assert frames(written)[-2].endswith(
    'step 3/10 loss nan acc - - steps/s -:--:-- left'
  )


@pytest.mark.slow
def test_bar_and_table_ascii_terminal_get_ascii():
  program = f"""{WIDEST}
from experiments.training import Result, print_summary
print_summary(Result(1., 2., None, 1, 3., 4., 'a/path', None, [{{}}], []))
"""
  written = in_terminal(program, 80, PYTHONIOENCODING='ascii')
  assert written.isascii()
  assert '| a/path |' in written


@pytest.mark.slow
def test_bar_resumed_run_starts_at_its_step():
  program = """
from experiments.training import progress
with progress.progress_bar(100, 50, epochs=10) as bar:
  bar.update(51, epoch=6, loss=1.)
"""
  texts = frames(in_terminal(program, 100, NO_COLOR='1'))
  assert texts
  # Half of the bar is drawn in bold. Without colours, the other half is blank.
  for bar in re.findall('epoch 6/10 (.*?) step', ' '.join(texts)):
    assert 0.4 < (bar.count('━') + 1) / len(bar) < 0.6
  assert 'step 51/100' in texts[-1]


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
    'compiling',
    'epoch 1000/1000  step 1000/1800000000  loss 1.234e+10  acc -'
    '  - steps/s  -:--:-- left',
    'epoch 1000/1000  step 1000/1800000000  loss 1.234e+10  test loss 1.500'
    '  acc 100.00%  - steps/s  -:--:-- left',
    'x' * 150,
    'epoch 1000/1000  step 6000/1800000000  loss 1.234e+10  test loss 1.500'
    '  acc 100.00%  5000 steps/s  99:59:59 left',
  ]


def test_lines_epoch_end_prints_one_after_its_test():
  with bar_in_file(200, description='run 7', epochs=4, waiting='compiling') as (
    bar,
    wait,
    lines,
  ):
    for epoch in (1, 2):
      for chunk in range(5):
        wait(0.5)
        bar.update(50 * epoch - 40 + 10 * chunk, epoch=epoch, loss=2 / epoch)
      wait(100)
      bar.update(50 * epoch, epoch=epoch, loss=2 / epoch)
      bar.end_epoch(epoch=epoch, test_loss=3.0, accuracy=50 + epoch)
    bar.log('[done] in 5.0 s')
  short = [line.split('  acc')[0] for line in lines]
  assert short == [
    'run 7',
    'compiling',
    'epoch 1/4  step 10/200  loss 2.000',
    'epoch 1/4  step 50/200  loss 2.000  test loss 3.000',
    'epoch 2/4  step 100/200  loss 1.000  test loss 3.000',
    '[done] in 5.0 s',
  ]


def test_lines_stopped_test_still_prints_its_epoch():
  with bar_in_file(10, epochs=1) as (bar, _, lines):
    bar.update(5, epoch=1, loss=1.0)
    bar.update(10, epoch=1, loss=1.0)
  assert [line.split('  loss')[0] for line in lines] == [
    'epoch 1/1  step 5/10',
    'test 1/1  step 10/10',
  ]


def test_lines_long_epoch_prints_one_per_period():
  with bar_in_file(epochs=1) as (bar, wait, lines):
    for step in range(1, 101):
      wait(1)
      bar.update(step, epoch=1, loss=1.0)
  steps = [line.split()[3] for line in lines]
  assert steps == ['1/1000', '31/1000', '61/1000', '91/1000', '100/1000']


def test_speed_resumed_run_counts_recent_steps_only():
  with bar_in_file(20_000, 9_000, epochs=2) as (bar, wait, lines):
    wait(500)  # Compilation.
    bar.update(9_010, epoch=1, loss=1.0)
    for chunk in range(1, 121):  # Slow at first: 1 step/s for 20 minutes, ...
      wait(10)
      bar.update(9_010 + 10 * chunk, epoch=1, loss=1.0)
    for chunk in range(1, 61):  # ... and then 4 steps/s for half of that.
      wait(10)
      bar.update(10_210 + 40 * chunk, epoch=2, loss=1.0)
  ends = [line.split('acc -  ')[1] for line in lines]
  assert ends[0] == '- steps/s  -:--:-- left'
  assert any(end.startswith('1 steps/s  2:4') for end in ends)
  assert ends[-1] == '4 steps/s  0:30:48 left'  # 7390 / 4 = 1847.5


def test_speed_long_evaluation_keeps_speed():
  with bar_in_file(epochs=10) as (bar, wait, lines):
    for epoch in (1, 2):
      wait(100)
      bar.update(100 * epoch, epoch=epoch, loss=1.0)
      wait(100)
      bar.end_epoch(epoch=epoch, test_loss=1.0, accuracy=epoch)
  # An epoch takes 200 s, half of it the test.
  assert lines[-1].endswith('acc 2.00%  0.5 steps/s  0:26:40 left')
