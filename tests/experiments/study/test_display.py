"""Tests the list and the progress bars of a study."""

import io
import re

import pytest
import rich.console

from experiments.records import ledger
from experiments.study import cost, display, plan, spec
from tests.experiments import ledgers
from tests.experiments.terminal import in_terminal


def status_text(tmp_path, study, trials, queued=None):
  runs = ledger.read(tmp_path / 'results')
  planned = plan.jobs('mine', study, trials, runs, tmp_path, together=False)
  text = io.StringIO()
  console = rich.console.Console(file=text, width=80)
  display.print_status(
    *('Mine', study, trials, runs, planned), queued or {}, (), console
  )
  return text.getvalue()


def test_print_status_lists_every_name_of_a_setting(tmp_path):
  ste = spec.in_protocol('fair', epochs=2, estimator='ste')
  study = {'ste': ste, 'same': ste, 'other': spec.in_protocol('fair')}
  ledgers.write(
    tmp_path / 'results', 'any', ste.to_dict() | {'seed': 1}, [1.0, 2.0]
  )
  text = status_text(tmp_path, study, trials=3)
  rows = {
    cells[0]: cells[1:]
    for line in text.splitlines()
    if line.startswith('│')
    for cells in [[cell.strip() for cell in line.strip('│').split('│')]]
  }
  assert rows == {
    'ste': ['1/3', 'missing: 0, 2'],
    'same': ['1/3', 'missing: 0, 2'],
    'other': ['0/3', 'missing: 0, 1, 2'],
  }
  assert '2 of 9 trials are done.' in text


def test_print_status_shows_job_in_queue(tmp_path):
  study = {'ste': spec.in_protocol('fair', epochs=2, estimator='ste')}
  first, _ = plan.jobs('mine', study, 2, [], tmp_path, together=False)
  text = status_text(tmp_path, study, 2, {first.workdir: '12_0'})
  assert 'in the queue as 12_0: 0; missing: 1' in ' '.join(
    text.replace('│', ' ').split()
  )


def test_print_status_shows_cost_of_epochs_that_are_left(tmp_path):
  config = spec.in_protocol('fair', estimator='ste')
  planned = plan.jobs('mine', {'ste': config}, 2, [], tmp_path, together=False)
  step = cost.Measured('resnet20', 32, 128, 100, 'ste', 'float32', 100.0, 'A')
  text = io.StringIO()
  console = rich.console.Console(file=text, width=80)
  display.print_status(
    *('Mine', {'ste': config}, 2, [], planned), {}, [step], console
  )
  # 0.1 s, 390 steps, 100 epochs, two trials.
  assert re.search(r'│ +2.2 │', text.getvalue())
  assert '2.2 GPU hours are left for 2 of 2 runs' in text.getvalue()


@pytest.mark.slow
def test_display_two_runs_have_bars_and_then_lines():
  program = """
from experiments.study import display
with display.open_display(2) as shown:
  for done, name in enumerate(['first', 'second']):
    with shown.show_run(done, name)(10, 0, 'not shown', epochs=2) as bar:
      bar.update(5, epoch=1, loss=1.5)
      bar.update(10, epoch=2, loss=1.25 + done)
      bar.end_epoch(epoch=2, test_loss=1., accuracy=70.)
"""
  written = in_terminal(program, 100, NO_COLOR='1')
  plain = re.sub(r'\x1b\[[\d;?]*[A-Za-z]', '', written)
  for line in (
    '[1/2] first',
    'epoch 2/2 loss 1.250 test loss 1.000 acc 70.00%',
    '[2/2] second',
    'epoch 2/2 loss 2.250 test loss 1.000 acc 70.00%',
  ):
    assert plain.count(line) == 1, line
  assert 'run 2/2' in plain
  assert 'not shown' not in plain
  assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')
