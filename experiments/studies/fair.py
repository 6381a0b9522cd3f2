"""Every backward rule at its own best step size: five trials, two epochs.

  python -m experiments.study --study=experiments/studies/fair.py \\
    --workdir=runs/fair --pretrained=FOLDER

The step size of a rule is the one with the highest accuracy on held-out images
in the runs of `fair_search.py` in results/. A rule whose search is not complete
has no setting here.
"""

import pathlib

from experiments.records import ledger
from experiments.studies import fair_search
from experiments.study import Study
from experiments.study.plan import done_seeds

RESULTS = pathlib.Path(__file__).parents[2] / 'results'


def best_rate(
  optimizer: str, rule: str, runs: list[ledger.Run]
) -> float | None:
  """Returns the best α of a rule; None if the search is not complete.

  Args:
    optimizer: Key of `fair_search.RATES`.
    rule: Key of `fair_search.RULES`.
    runs: Runs of the search.
  """
  found: dict[float, float] = {}
  for rate in fair_search.RATES[optimizer]:
    config = fair_search.setting(
      optimizer, rule, rate, holdout=fair_search.HELD_OUT
    ).to_dict()
    for run in runs:
      if done_seeds(config, [run]):
        # A run that diverged has no epochs.
        records = run.records
        found[rate] = records[-1]['test_accuracy'] if records else 0.0
  if set(found) < set(fair_search.RATES[optimizer]):
    return None
  return max(found, key=found.__getitem__)


def get_study() -> Study:
  """Returns one setting per optimizer and rule whose search is complete."""
  runs = ledger.read(RESULTS, 'fair_search-*')
  return Study(
    'Backward rules at their best step sizes: ResNet20, 1 bit, two epochs',
    {
      f'{optimizer}-{rule}': fair_search.setting(optimizer, rule, rate)
      for optimizer in fair_search.RATES
      for rule in fair_search.RULES
      if (rate := best_rate(optimizer, rule, runs)) is not None
    },
    figures=False,
  )
