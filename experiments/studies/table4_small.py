"""Table 4 as a whole training in small: two epochs, the second at a tenth.

  python -m experiments.study --study=experiments/studies/table4_small.py \
    --workdir=runs/table4_small --pretrained=FOLDER

The settings of `table4.py`. What rises in the course of a run does so within
these two epochs.
"""

from experiments.studies.table4 import PUBLISHED, SHORT, grid
from experiments.study import Study


def get_study() -> Study:
  """Two epochs."""
  return Study(
    'Table 4 in small: drops after two epochs',
    grid(SHORT),
    trials=1,
    drops=PUBLISHED,
  )
