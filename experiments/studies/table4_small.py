"""Table 4 as a short complete training: two epochs, the second at α / 10.

  python -m experiments.study --study=experiments/studies/table4_small.py \
    --workdir=runs/table4_small --pretrained=FOLDER

The settings are those of `table4.py`. Schedules that span a run span these two
epochs.
"""

from experiments.studies.table4 import PUBLISHED, SHORT, grid
from experiments.study import Study


def get_study() -> Study:
  """Returns the settings at two epochs."""
  return Study(
    'Table 4, short: drops after two epochs',
    grid(SHORT),
    trials=1,
    drops=PUBLISHED,
    figures=False,
  )
