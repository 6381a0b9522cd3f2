"""Four backward rules for ten epochs, and with the ends in full precision.

  python -m experiments.study --study=experiments/studies/fair_more.py \\
    --workdir=runs/fair_more --results=results --pretrained=FOLDER

The rules are the straight-through rule, the best learned rule, and the two best
of the others, by the runs of `fair.py` in results/. Each keeps its step size.
"""

import statistics
from collections.abc import Mapping

from experiments.build.estimators import ESTIMATORS
from experiments.records import ledger
from experiments.studies import fair, fair_search
from experiments.study import Study

LONG = 10
# The first convolution and the last layer.
ENDS = '(stem|head)/kernel'
OTHERS = 2


def chosen(
  optimizer: str, study: Study, accuracies: Mapping[str, dict[int, float]]
) -> list[str]:
  """Returns the four rules; an empty list if `fair.py` is not complete.

  Args:
    optimizer: 'sgd' or 'adam'.
    study: The study of `fair.py`.
    accuracies: `fair.final_accuracies` of the ledger.
  """
  means: dict[str, float] = {}
  for rule in fair_search.RULES:
    config = study.settings.get(f'{optimizer}-{rule}')
    values = fair.accuracies_of(config, accuracies) if config else []
    if len(values) < study.trials:
      return []
    means[rule] = statistics.fmean(values)
  ranked = sorted(means, key=means.__getitem__, reverse=True)
  learned = [r for r in ranked if _is_learned(r)]
  others = [r for r in ranked if not _is_learned(r) and r != fair.BASELINE]
  return [fair.BASELINE, learned[0], *others[:OTHERS]]


def _is_learned(rule: str) -> bool:
  return ESTIMATORS[fair_search.RULES[rule]['estimator']].learned


def get_study() -> Study:
  """Returns two settings per chosen rule and optimizer."""
  accuracies = fair.final_accuracies(ledger.read(fair.RESULTS, 'fair*'))
  study = fair.get_study()
  settings = {}
  baselines = {}
  for optimizer in fair_search.RATES:
    for rule in chosen(optimizer, study, accuracies):
      rate = study.settings[f'{optimizer}-{rule}'].learning_rate
      changes = {
        f'{LONG}epochs': {'epochs': LONG, 'decay_at': f'{LONG // 2}'},
        'float_ends': {'float_layers': ENDS},
      }
      for name, change in changes.items():
        config = fair_search.setting(optimizer, rule, rate)
        config.update(change)
        settings[f'{optimizer}-{rule}-{name}'] = config
        if rule != fair.BASELINE:
          baselines[f'{optimizer}-{rule}-{name}'] = (
            f'{optimizer}-{fair.BASELINE}-{name}'
          )
  return Study(
    'Four rules: ten epochs, and first and last layer in full precision',
    settings,
    figures=False,
    baselines=baselines,
  )
