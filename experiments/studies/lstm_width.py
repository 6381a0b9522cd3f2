"""The width of the LSTM: what its cost buys, in bits per byte.

  python -m experiments.study --study=experiments/studies/lstm_width.py \\
    --workdir=runs/lstm_width

The network, the text and the step size are those of `language.py` with weights
of 1 bit. Each width has an LSTM per weight, and one per point of a grid over
each array of weights. `benchmarks.lstm_width` measures the cost of a step of
this network.
"""

from experiments.configs import gpt
from experiments.studies import language
from experiments.study import Study

WIDTHS = (1, 4, 16, 100)
GRID_POINTS = 32
RATE = 3e-3


def get_study() -> Study:
  """Returns straight-through, and two settings per width of the LSTM."""
  common = language.COMMON | language.FORWARD['1bit'] | {'learning_rate': RATE}
  settings = {'ste': gpt.get_config(estimator='ste', **common)}
  for name, points in (('lstm_fc', 0), ('lstm_fc_grid', GRID_POINTS)):
    for width in WIDTHS:
      settings[f'{name}-{width}'] = gpt.get_config(
        estimator='lstm_fc',
        init='identity',
        hidden=width,
        grid_points=points,
        **common,
      )
  return Study(
    'Width of the LSTM: bits per byte of the test',
    settings,
    trials=3,
    figures=False,
    baselines=dict.fromkeys([s for s in settings if s != 'ste'], 'ste'),
  )
