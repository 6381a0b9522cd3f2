"""Parts of the best 1-bit recipe: optimizer, step size, soft labels.

  python -m experiments.study --study=experiments/studies/best_1bit_search.py \\
    --workdir=runs/best_1bit_search --pretrained=FOLDER

Each setting changes one or two values of the start of the search. It trains
twice for 195 steps, with a test on 5,000 training images that are held out.
experiments/configs/best_1bit.py has the values of the best setting.
"""

from experiments.configs import best_1bit
from experiments.studies.fair_search import HELD_OUT, SEARCH_STEPS
from experiments.study import Study

RATES = {
  'sgd': (0.1, 0.3),
  'momentum': (0.01, 0.03, 0.1),
  'adam': (3e-4, 1e-3, 3e-3),
}
# The values that a setting does not change.
START = {'optimizer': 'adam', 'learning_rate': 1e-3, 'distill': 0.9}
# The share 0.9 is already in the settings by rate.
SHARES = (0.0, 0.5, 1.0)


def get_study() -> Study:
  """Returns settings by optimizer and rate, and by the share of soft labels."""
  common = {'holdout': HELD_OUT, 'epoch_steps': SEARCH_STEPS, 'epochs': 2}
  settings = {
    f'{optimizer}-{rate:g}': best_1bit.get_config(
      **START | {'optimizer': optimizer, 'learning_rate': rate} | common
    )
    for optimizer, rates in RATES.items()
    for rate in rates
  }
  settings |= {
    f'soft-{share:g}': best_1bit.get_config(
      **START | {'distill': share} | common
    )
    for share in SHARES
  }
  return Study(
    'Parts of the best 1-bit recipe: accuracy on held-out images',
    settings,
    trials=1,
    figures=False,
  )
