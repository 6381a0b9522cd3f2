"""Tests the table of the README."""

import math

from experiments.records import ledger
from experiments.report import headline
from experiments.study import spec
from tests.experiments import ledgers


def test_lines_name_settings_of_studies_and_rows_show_their_runs(tmp_path):
  studies = spec.load_all()
  for line in headline.LINES:
    study = studies[line.study]
    for name in {line.setting, line.full} - {''}:
      # A tuned rule is named without its step size.
      found = [s for s in study.settings if s.startswith(f'{name}-')]
      assert found if study.tuned else name in study.settings
  of_text = studies['language'].settings
  of_images = studies['table1'].settings
  for seed in (0, 1):
    for name, config, loss in (
      ('bits', of_text['1bit-ste-0.003'], (2 + seed) * math.log(2)),
      ('full', of_text['full-0.003'], 1.5 * math.log(2)),
      ('image', of_images['resnet20-dorefa-sgd-ste'], 0.5),
    ):
      changes = config.to_dict() | {'seed': seed}
      accuracies = [80.0 + seed] * config.epochs
      ledgers.write(
        tmp_path, f'{name}-{seed}', changes, accuracies, test_loss=loss
      )
  table = headline.headline_table(studies, ledger.read(tmp_path))
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  assert [(r['network'], r['test'], r['full precision']) for r in rows] == [
    ('ResNet20, CIFAR-10', '80.50 ± 0.71 %', '91.50 %'),
    (
      'transformer, Shakespeare',
      '2.500 ± 0.707 bits per byte',
      '1.500 ± 0.000 bits per byte',
    ),
  ]


def test_row_counts_diverged_trials_and_needs_one_that_did_not(tmp_path):
  studies = spec.load_all()
  config = studies['table1'].settings['resnet20-dorefa-sgd-ste'].to_dict()
  ledgers.write(tmp_path, '0', config, [], diverged='at step 2')
  assert headline.headline_table(studies, ledger.read(tmp_path)).rows == []
  ledgers.write(tmp_path, '1', config | {'seed': 1}, [80.0] * config['epochs'])
  table = headline.headline_table(studies, ledger.read(tmp_path))
  (row,) = (dict(zip(table.columns, r, strict=True)) for r in table.rows)
  assert row['trials'] == '1, 1 diverged'
