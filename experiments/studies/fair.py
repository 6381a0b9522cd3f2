"""Every backward rule at its own best step size: five trials, two epochs.

  python -m experiments.study --study=experiments/studies/fair.py \\
    --workdir=runs/fair --pretrained=FOLDER

The step size of a rule is the one with the highest accuracy on held-out images
in the runs of `fair_search.py` in results/. A rule whose search is not complete
has no setting here.
"""

import pathlib
from collections.abc import Iterable, Mapping

from experiments.build.fingerprint import identity
from experiments.records import ledger
from experiments.studies import fair_search
from experiments.study import Study

RESULTS = pathlib.Path(__file__).parents[2] / ledger.RESULTS


def held_out_accuracies(runs: Iterable[ledger.Run]) -> dict[str, float]:
  """Returns the accuracy of each run by the identity of its configuration.

  A run that diverged has the accuracy 0.
  """
  return {
    identity(run.header['config']): run.records[-1]['test_accuracy']
    if len(run.records) == run.header['config']['epochs']
    else 0.0
    for run in runs
  }


def best_rate(
  optimizer: str, rule: str, accuracies: Mapping[str, float]
) -> float | None:
  """Returns the best α of a rule; None if the search is not complete.

  Args:
    optimizer: Key of `fair_search.RATES`.
    rule: Key of `fair_search.RULES`.
    accuracies: `held_out_accuracies` of the search.
  """
  found: dict[float, float] = {}
  for rate in fair_search.RATES[optimizer]:
    config = fair_search.searched(
      optimizer, rule, rate, pretrained=fair_search.BASE
    )
    name = identity(config.to_dict())
    if name not in accuracies:
      return None
    found[rate] = accuracies[name]
  return max(found, key=found.__getitem__)


def get_study() -> Study:
  """Returns one setting per optimizer and rule whose search is complete."""
  accuracies = held_out_accuracies(ledger.read(RESULTS, 'fair_search-*'))
  settings = {
    f'{optimizer}-{rule}': fair_search.setting(optimizer, rule, rate)
    for optimizer in fair_search.RATES
    for rule in fair_search.RULES
    if (rate := best_rate(optimizer, rule, accuracies)) is not None
  }
  return Study(
    'Backward rules at their best step sizes: ResNet20, 1 bit, two epochs',
    settings,
    figures=False,
    baselines={
      name: f'{config.optimizer}-ste'
      for name, config in settings.items()
      if config.estimator != 'ste'
    },
  )
