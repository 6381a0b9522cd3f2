"""The networks of small_files/: ResNet20 at 1 bit, ternary and 2 bits.

  python -m experiments.study --study=experiments/studies/small_files.py \\
    --workdir=runs/small_files --pretrained=FOLDER
  python -m experiments.deploy --workdir=runs/small_files/runs/NAME \\
    --out=small_files/NAME

The recipe is experiments/configs/best_1bit.py at the length of its default.
"""

from typing import Any

from experiments.configs import best_1bit
from experiments.study import Study

FORWARD: dict[str, dict[str, Any]] = {
  '1bit': {'quantizer': 'dorefa', 'bits': 1},
  'ternary': {'quantizer': 'absmean'},
  '2bit': {'quantizer': 'dorefa', 'bits': 2},
}


def get_study() -> Study:
  """Returns one setting per forward rule."""
  return Study(
    'Shipped files: ResNet20 of few bits in every layer',
    {
      f'resnet20-{name}': best_1bit.get_config(**changes)
      for name, changes in FORWARD.items()
    },
    trials=1,
    figures=False,
  )
