"""Tests the choice of step sizes for the comparison of backward rules."""

import pytest

from experiments.records import ledger
from experiments.studies import fair, fair_search
from experiments.study import spec
from tests.experiments import ledgers


def write_search(folder, accuracies, optimizer='sgd', rule='ede'):
  """Writes the runs of a search, with the accuracies of their two epochs."""
  for rate, (first, last) in accuracies.items():
    config = fair_search.searched(
      optimizer, rule, rate, pretrained=f'elsewhere/{fair_search.BASE}'
    )
    name = f'fair_search-{fair_search.name_of(optimizer, rule, rate)}'
    ledgers.write(folder, name, config.to_dict(), [first, last])
  return fair.held_out_accuracies(ledger.read(folder, 'fair_search-*'))


def test_best_rate_has_highest_last_accuracy(tmp_path):
  rates = fair_search.RATES['sgd']
  runs = {rate: (90.0, 50.0) for rate in rates} | {rates[2]: (10.0, 60.0)}
  found = write_search(tmp_path, runs)
  assert fair.best_rate('sgd', 'ede', found) == rates[2]
  assert fair.best_rate('sgd', 'ste', found) is None
  assert fair.best_rate('adam', 'ede', found) is None


def test_best_rate_of_incomplete_search_is_none(tmp_path):
  rates = fair_search.RATES['sgd'][:-1]
  found = write_search(tmp_path, {rate: (50.0, 50.0) for rate in rates})
  assert fair.best_rate('sgd', 'ede', found) is None


def test_fair_has_settings_of_complete_searches_only(tmp_path, monkeypatch):
  monkeypatch.setattr(fair, 'RESULTS', tmp_path)
  assert fair.get_study().settings == {}
  rates = fair_search.RATES['sgd']
  write_search(tmp_path, {rate: (rate, rate) for rate in rates})
  (setting,) = fair.get_study().settings.items()
  assert setting[0] == 'sgd-ede'
  assert setting[1].learning_rate == max(rates)
  assert setting[1].holdout == setting[1].epoch_steps == 0


def test_every_rule_has_the_same_budget():
  settings = spec.load_all()['fair_search'].settings.values()
  for optimizer, rates in fair_search.RATES.items():
    budget = [c for c in settings if c.optimizer == optimizer]
    assert len(budget) == len(fair_search.RULES) * len(rates)
  assert {
    (c.epochs, c.epoch_steps, c.holdout, c.decay_at) for c in settings
  } == {(2, 195, 5000, '1')}
  assert (
    pytest.approx(0.1)
    == fair_search.get_study().settings['sgd-ewgs-0.1'].rule.delta
  )
