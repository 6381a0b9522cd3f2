"""Bits per byte over the steps of training, by bits and backward rule.

  python -m experiments.study --study=experiments/studies/language_curves.py \\
    --workdir=runs/language_curves

The runs are those of `language.py` at the best step size of each rule, with ten
tests instead of two.
"""

from experiments.configs import gpt
from experiments.studies import language
from experiments.study import Study

TESTS = 10
STEPS = 196  # between two tests: a tenth of the steps of two epochs
RATE = 3e-3
# The step sizes with the lowest test loss in results/, where RATE is not.
OTHER_RATES = {
  '1bit-fc_grad': 1e-3,
  '2bit-fc_grad': 1e-3,
  '4bit-ste': 1e-3,
  '4bit-multi_fc': 1e-2,
  '4bit-dsq': 1e-3,
  '4bit_lsq-ste': 1e-3,
  '4bit_lsq-fc_grad': 1e-3,
  '4bit_lsq-dsq': 1e-3,
}


def get_study() -> Study:
  """Returns one setting per forward and backward rule."""
  rules = {'full': language.FULL} | language.rules()
  common = language.COMMON | {'epochs': TESTS, 'epoch_steps': STEPS}
  settings = {
    name: gpt.get_config(
      learning_rate=OTHER_RATES.get(name, RATE),
      **common | rule,
    )
    for name, rule in rules.items()
  }
  return Study(
    'Language models: bits per byte over steps',
    settings,
    trials=3,
    figures=False,
    over_steps=True,
  )
