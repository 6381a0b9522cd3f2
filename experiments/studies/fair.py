"""Every backward rule at its own best step size: five trials, two epochs.

  python -m experiments.study --study=experiments/studies/fair.py \\
    --workdir=runs/fair --results=results --pretrained=FOLDER

The step size of a rule is the one with the highest accuracy on held-out images
in the runs of `fair_search.py` in results/. A rule whose search is not complete
has no setting here. The straight-through rule also has its second-best step
size, which shows how much the choice between the two matters.
"""

import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.build.fingerprint import identity
from experiments.records import ledger
from experiments.studies import fair_search
from experiments.study import Study

BASELINE = 'ste'
SECOND = f'{BASELINE}-second'  # at its second-best step size
RESULTS = pathlib.Path(__file__).parents[2] / ledger.RESULTS


def final_accuracies(runs: Iterable[ledger.Run]) -> dict[str, dict[int, float]]:
  """Returns the last accuracy of each seed, by its setting.

  The base model is no part of a setting: RESULTS should have runs of one. A
  seed that only diverged has the accuracy 0. If one of several seeds in a
  program diverges, each of them has an entry of its own.
  """
  found: dict[str, dict[int, float]] = {}
  for run in sorted(runs, key=lambda run: 'diverged' not in run.header):
    of_setting = found.setdefault(_setting(run.header['config']), {})
    if 'diverged' in run.header:
      of_setting |= dict.fromkeys(ledger.seeds(run), 0.0)
    else:
      of_setting |= {
        seed: records[-1]['test_accuracy']
        for seed, records in ledger.trials(run).items()
      }
  return found


def accuracies_of(
  config: ConfigDict, accuracies: Mapping[str, dict[int, float]]
) -> list[float]:
  """Returns the accuracies of a setting, whatever its base model.

  Args:
    config: Setting.
    accuracies: `final_accuracies` of the ledger.
  """
  return [*accuracies.get(_setting(config.to_dict()), {}).values()]


def _setting(config: Mapping[str, Any]) -> str:
  return identity(dict(config) | {'pretrained': ''})


def best_rates(
  optimizer: str, rule: str, accuracies: Mapping[str, dict[int, float]]
) -> list[float]:
  """Returns the α of a rule, the best first; empty if the search is incomplete.

  Args:
    optimizer: Key of `fair_search.RATES`.
    rule: Key of `fair_search.RULES`.
    accuracies: `final_accuracies` of the search.
  """
  found: dict[float, float] = {}
  for rate in fair_search.RATES[optimizer]:
    config = fair_search.searched(optimizer, rule, rate)
    values = accuracies_of(config, accuracies)
    if not values:
      return []
    found[rate] = statistics.fmean(values)
  return sorted(found, key=found.__getitem__, reverse=True)


def get_study() -> Study:
  """Returns one setting per optimizer and rule whose search is complete."""
  accuracies = final_accuracies(ledger.read(RESULTS, 'fair_search-*'))
  settings = {}
  for optimizer in fair_search.RATES:
    for rule in fair_search.RULES:
      rates = best_rates(optimizer, rule, accuracies)
      names = [rule, SECOND] if rule == BASELINE else [rule]
      for name, rate in zip(names, rates, strict=False):
        config = fair_search.setting(optimizer, rule, rate)
        settings[f'{optimizer}-{name}'] = config
  return Study(
    'Backward rules at their best step sizes: ResNet20, 1 bit, two epochs',
    settings,
    figures=False,
    baselines={
      name: baseline
      for name, config in settings.items()
      if config.estimator != BASELINE
      # The search of the baseline may be incomplete.
      and (baseline := f'{config.optimizer}-{BASELINE}') in settings
    },
  )
