"""Beyond the paper: learned rules that start at the straight-through rule.

  python -m experiments.study --study=experiments/studies/beyond.py \
    --workdir=runs/beyond --pretrained=FOLDER

Every rule is tuned on ResNet20 with 5,000 training images held out;
`beyond_others.py` tests the best rules on other networks. The authors'
pretrained network was trained on those images, in full precision.

The protocol is a short complete training, so that a search fits two CPU cores:
two epochs, the second with a tenth of the step size. A constant step size would
favour any rule that lowers it.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.study import Study, in_protocol

HELD_OUT = 5_000
SHORT = {'epochs': 2, 'decay_every': 1}
# STE uses all of these rates; the learned rules start at the best one.
RATES = {'sgd': (1e-2, 3e-2, 1e-1, 3e-1), 'adam': (3e-4, 1e-3, 3e-3)}
TUNED = {'sgd': 1e-1, 'adam': 1e-3}
_FORMS: dict[str, dict[str, Any]] = {
  'scalar': {'estimator': 'fc_grad', 'layers': 1, 'init': 'identity'},
  'line': {'estimator': 'multi_fc', 'layers': 1, 'init': 'identity'},
  'features': {
    'estimator': 'feature_fc',
    'hidden': 16,
    'progress_epochs': SHORT['epochs'],
  },
}
RULES = {
  f'{name}{"_per_layer" * per_layer}': changes | {'per_layer': per_layer}
  for name, changes in _FORMS.items()
  for per_layer in (False, True)
}


def get_study() -> Study:
  """Returns ResNet20 settings with dorefa, under SGD and Adam."""
  settings: dict[str, ConfigDict] = {}
  for optimizer, rates in RATES.items():
    base = f'resnet20-dorefa-{optimizer}'
    common = {'optimizer': optimizer, 'holdout': HELD_OUT, **SHORT}
    for alpha in rates:
      settings[f'{base}-ste-alpha{alpha:g}'] = in_protocol(
        'fair', estimator='ste', learning_rate=alpha, **common
      )
    for rule, changes in RULES.items():
      for gamma in (1e-3, 1e-2):
        settings[f'{base}-{rule}-gamma{gamma:g}'] = in_protocol(
          'fair',
          learning_rate=TUNED[optimizer],
          meta_learning_rate=gamma,
          **common,
          **changes,
        )
  return Study('Beyond the paper: ResNet20, held-out images', settings, 1)
