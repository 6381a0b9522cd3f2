"""What a person sees of a study."""

import io

import rich.console

from experiments.records import ledger
from experiments.study import display, plan, spec
from tests.experiments import ledgers


def shown(tmp_path, study, trials):
  runs = ledger.read(tmp_path / 'results')
  planned = plan.jobs('mine', study, trials, runs, tmp_path, together=False)
  text = io.StringIO()
  console = rich.console.Console(file=text, width=80)
  display.print_status('Mine', study, trials, runs, planned, console)
  return text.getvalue()


def test_what_is_done_and_what_is_missing_under_every_name(tmp_path):
  one = spec.in_protocol('fair', epochs=2, estimator='ste')
  study = {'one': one, 'same': one, 'other': spec.in_protocol('fair')}
  ledgers.write(
    tmp_path / 'results', 'any', one.to_dict() | {'seed': 1}, [1.0, 2.0]
  )
  text = shown(tmp_path, study, trials=3)
  rows = {
    cells[0]: cells[1:]
    for line in text.splitlines()
    if line.startswith('│')
    for cells in [[cell.strip() for cell in line.strip('│').split('│')]]
  }
  assert rows == {
    'one': ['1/3', 'missing: 0, 2'],
    'same': ['1/3', 'missing: 0, 2'],
    'other': ['0/3', 'missing: 0, 1, 2'],
  }
  assert '2 of 9 trials are done.' in text
