"""MetaQuant's Table 2, and figures 11 to 14: CIFAR-100 at 1 bit.

  python -m experiments.study --study=experiments/studies/table2.py \
    --workdir=runs/table2 --pretrained=FOLDER
"""

from experiments.studies.table1 import main_table
from experiments.study import Study

FIGURES = {
  'resnet56-dorefa': 'figure 11',
  'resnet56-bwn': 'figure 12',
  'resnet110-dorefa': 'figure 13',
  'resnet110-bwn': 'figure 14',
}


def get_study() -> Study:
  """Returns the grid of Table 1 for ResNet56 and ResNet110."""
  # Six of the eight logs of the baselines have a single drop of the learning
  # rate. It is unknown which two lack it.
  return main_table('Table 2', 'cifar100', FIGURES, {'decay_every': 61})
