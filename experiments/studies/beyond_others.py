"""The rules of `beyond.py` on networks that they were not tuned on.

  python -m experiments.study --study=experiments/studies/beyond_others.py \
    --workdir=runs/beyond --pretrained=FOLDER

Accuracy is on the test set. STE uses the step size of the same tuning.
"""

from ml_collections import ConfigDict

from experiments.studies.beyond import RULES, SHORT, TUNED
from experiments.study import Study, in_protocol

GAMMA = 1e-3


def get_study() -> Study:
  """Returns ResNet32 and ResNet44 settings with dorefa, under SGD and Adam."""
  settings: dict[str, ConfigDict] = {}
  for network in ('resnet32', 'resnet44'):
    for optimizer, alpha in TUNED.items():
      base = f'{network}-dorefa-{optimizer}'
      common = {
        'network': network,
        'optimizer': optimizer,
        'learning_rate': alpha,
        **SHORT,
      }
      settings[f'{base}-ste'] = in_protocol('fair', estimator='ste', **common)
      for rule, changes in RULES.items():
        settings[f'{base}-{rule}'] = in_protocol(
          'fair', meta_learning_rate=GAMMA, **common, **changes
        )
  return Study('Beyond the paper, on other networks', settings, trials=3)
