"""Tests the choice of step sizes for the comparison of backward rules."""

import pytest

from experiments.records import ledger
from experiments.studies import fair, fair_more, fair_search
from experiments.study import spec
from tests.experiments import ledgers


def write_search(folder, accuracies, optimizer='sgd', rule='ede'):
  """Writes the runs of a search, with the accuracies of their two epochs."""
  for rate, (first, last) in accuracies.items():
    config = fair_search.searched(
      optimizer, rule, rate, pretrained='elsewhere/a.safetensors'
    )
    name = f'fair_search-{fair_search.name_of(optimizer, rule, rate)}'
    ledgers.write(folder, name, config.to_dict(), [first, last])
  return fair.final_accuracies(ledger.read(folder, 'fair_search-*'))


def test_best_rates_are_ordered_by_their_last_accuracy(tmp_path):
  rates = fair_search.RATES['sgd']
  runs = {rate: (90.0, 50.0) for rate in rates}
  runs |= {rates[2]: (10.0, 60.0), rates[4]: (0.0, 55.0)}
  found = write_search(tmp_path, runs)
  assert fair.best_rates('sgd', 'ede', found)[:2] == [rates[2], rates[4]]
  assert fair.best_rates('sgd', 'ste', found) == []
  assert fair.best_rates('adam', 'ede', found) == []


def test_incomplete_search_has_no_best_rate(tmp_path):
  rates = fair_search.RATES['sgd'][:-1]
  found = write_search(tmp_path, {rate: (50.0, 50.0) for rate in rates})
  assert fair.best_rates('sgd', 'ede', found) == []


def test_fair_has_settings_of_complete_searches_only(tmp_path, monkeypatch):
  monkeypatch.setattr(fair, 'RESULTS', tmp_path)
  assert fair.get_study().settings == {}
  rates = fair_search.RATES['sgd']
  write_search(tmp_path, {rate: (rate, rate) for rate in rates})
  (setting,) = fair.get_study().settings.items()
  assert setting[0] == 'sgd-ede'
  assert setting[1].learning_rate == max(rates)
  assert setting[1].holdout == setting[1].epoch_steps == 0
  # Its baseline is not searched yet, and a study has baselines of its own only.
  assert fair.get_study().baselines == {}


def test_baseline_also_has_its_second_best_rate(tmp_path, monkeypatch):
  monkeypatch.setattr(fair, 'RESULTS', tmp_path)
  rates = fair_search.RATES['sgd']
  for rule in ('ste', 'ede'):
    write_search(tmp_path, {rate: (rate, rate) for rate in rates}, rule=rule)
  study = fair.get_study()
  chosen = {name: c.learning_rate for name, c in study.settings.items()}
  assert chosen == {
    'sgd-ste': rates[-1],
    'sgd-ste-second': rates[-2],
    'sgd-ede': rates[-1],
  }
  assert study.baselines == {'sgd-ede': 'sgd-ste'}


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


def write_fair(folder, accuracies, trials=5):
  """Writes complete searches under SGD, and trials of every rule."""
  for rule in fair_search.RULES:
    rates = fair_search.RATES['sgd']
    write_search(folder, {rate: (rate, rate) for rate in rates}, rule=rule)
  for name, config in fair.get_study().settings.items():
    rule = name.removeprefix('sgd-')
    each = [[0.0, accuracies.get(rule, 50.0) + seed] for seed in range(trials)]
    values = config.to_dict() | {'pretrained': 'a.safetensors'}
    ledgers.write(folder, f'fair-{name}', values, each)


def test_fair_more_has_ste_the_best_learned_rule_and_two_others(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(fair, 'RESULTS', tmp_path)
  assert fair_more.get_study().settings == {}
  best = {'multi_fc': 60.0, 'fc_grad': 59.0, 'dsq': 80.0, 'ede': 70.0}
  write_fair(tmp_path, best)
  study = fair_more.get_study()
  rules = ('ste', 'multi_fc', 'dsq', 'ede')
  assert [*study.settings] == [
    f'sgd-{rule}-{change}'
    for rule in rules
    for change in ('10epochs', 'float_ends')
  ]
  assert study.baselines['sgd-dsq-10epochs'] == 'sgd-ste-10epochs'
  assert 'sgd-ste-10epochs' not in study.baselines
  long, ends = (
    study.settings[f'sgd-dsq-{c}'] for c in ('10epochs', 'float_ends')
  )
  assert (long.epochs, long.float_layers) == (10, '')
  assert (ends.epochs, ends.float_layers) == (2, '(stem|head)/kernel')
  assert long.learning_rate == ends.learning_rate == 1.0


def test_fair_more_waits_for_all_trials(tmp_path, monkeypatch):
  monkeypatch.setattr(fair, 'RESULTS', tmp_path)
  write_fair(tmp_path, {}, trials=4)
  assert fair_more.get_study().settings == {}


def test_seed_that_diverged_beside_others_counts_alone(tmp_path):
  config = fair_search.setting('sgd', 'ede', 0.1).to_dict()
  config |= {'pretrained': 'a.safetensors'}
  ledgers.write(tmp_path, 'a', config, [[50.0] * 2], diverged='x')
  ledgers.write(tmp_path, 'b', config | {'seed': 1}, [], diverged='x')
  ledgers.write(tmp_path, 'A', config, [60.0, 70.0])
  found = fair.final_accuracies(ledger.read(tmp_path))
  assert [*found.values()] == [{0: 70.0, 1: 0.0}]
