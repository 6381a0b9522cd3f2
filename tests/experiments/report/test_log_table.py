"""Tests the table of training losses beside the authors' logs."""

import json
import math

from experiments.build.fingerprint import identity
from experiments.records import ledger
from experiments.report import comparison
from experiments.report.log_table import log_table
from experiments.studies import as_released
from experiments.study import in_protocol, spec
from tests.experiments import ledgers


def test_log_table_has_our_losses_beside_logged_ones(tmp_path):
  config = in_protocol('paper', quantizer='bwn', estimator='ste')
  ledgers.write(
    tmp_path,
    'ours',
    config.to_dict(),
    [[80.0, 90.0], [82.0, 94.0]],
    loss_of=lambda accuracy: accuracy / 100,
  )
  # A learned rule in another order than that of the logs has no row.
  other = in_protocol('paper', quantizer='bwn', estimator='fc_grad')
  ledgers.write(tmp_path, 'other', other.to_dict(), [70.0])
  table = log_table(ledger.read(tmp_path))
  ours, logs = (
    dict(zip(table.columns, row, strict=True)) for row in table.rows
  )
  assert ours['setting'] == logs['setting'] == '`resnet20-bwn-sgd-ste`'
  assert (ours['trials'], logs['trials']) == ('2', '3')
  assert ours['epoch 1'] == f'0.8100 ± {0.02 / math.sqrt(2):.4f}'
  assert ours['epoch 2'] == f'0.9200 ± {0.04 / math.sqrt(2):.4f}'
  assert ours['epoch 3'] == ours['epoch 10'] == ''
  assert logs['epoch 10'] == '0.8273 ± 0.0007'
  assert '8 of 9 settings have no run yet' in table.note


def test_logged_settings_differ_and_sums_equal_checked_values():
  entries = json.loads(comparison.PUBLISHED.read_text())['first_epochs']
  assert len({str(config) for config, _ in comparison.logged()}) == 9
  means = [mean for entry in entries for mean, _ in entry['raw_loss'].values()]
  assert math.isclose(sum(means), 33.1349, abs_tol=1e-9)
  assert sum(entry['raw_trials'] for entry in entries) == 24


def test_log_table_has_losses_with_other_gamma_between(tmp_path):
  config = in_protocol(
    'paper', quantizer='bwn', estimator='fc_grad', reapply=True
  )
  other = config.to_dict() | {'meta_learning_rate': as_released.OTHER_GAMMA}
  ledgers.write(tmp_path, 'ours', config.to_dict(), [80.0])
  ledgers.write(tmp_path, 'other', other, [[70.0, 60.0], [72.0, 62.0]])
  table = log_table(ledger.read(tmp_path))
  sources, trials = (
    [row[table.columns.index(name)] for row in table.rows]
    for name in ('source', 'trials')
  )
  assert sources == ['ours', 'ours, γ = 0.002', 'logs']
  assert trials == ['1', '2', '3']
  assert '8 of 9 settings have no run yet' in table.note


def test_as_released_has_exactly_the_logged_settings():
  def settings(configs):
    return {str(identity(c.to_dict() | {'epochs': 5})) for c in configs}

  study = spec.load_all()['as_released']
  other = {n: c for n, c in study.settings.items() if 'gamma' in n}
  logged = [config for config, _ in comparison.logged()]
  assert settings(
    c for n, c in study.settings.items() if n not in other
  ) == settings(logged)
  assert settings(other.values()) == settings(
    as_released.with_other_gamma(c) for c in logged if c.estimator != 'ste'
  )
