"""Accuracy over minutes: the best 1-bit recipe against the released protocol.

  python -m experiments.study --study=experiments/studies/best_1bit.py \\
    --workdir=runs/best_1bit --pretrained=FOLDER

All runs start from the same trained ResNet20 and quantize every layer to 1 bit.
The released protocol keeps α for 30 epochs, so its shorter runs are beginnings
of one long run.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from experiments.configs import best_1bit
from experiments.study import Study, in_protocol

LENGTHS = (1, 2, 4, 10, 30)


def _released(optimizer: str, estimator: str, epochs: int) -> ConfigDict:
  """Returns a row of Table 1, cut short."""
  return in_protocol(
    'paper',
    network='resnet20',
    quantizer='dorefa',
    optimizer=optimizer,
    estimator=estimator,
    epochs=epochs,
    last_epochs=1,
  )


RECIPES: dict[str, Callable[[int], ConfigDict]] = {
  'released-sgd-multi_fc': lambda n: _released('sgd', 'multi_fc', n),
  'released-adam-multi_fc': lambda n: _released('adam', 'multi_fc', n),
  'released-adam-ste': lambda n: _released('adam', 'ste', n),
  'hard_labels': lambda n: best_1bit.get_config(distill=0.0, epochs=n),
  'best_1bit': lambda n: best_1bit.get_config(epochs=n),
}


def get_study() -> Study:
  """Returns one setting per recipe and length."""
  return Study(
    'ResNet20 at 1 bit in every layer: accuracy over minutes',
    {
      f'{name}-{epochs}': config_of(epochs)
      for epochs in LENGTHS
      for name, config_of in RECIPES.items()
    },
    trials=1,
    figures=False,
    over_time=True,
  )
