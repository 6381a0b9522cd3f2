"""How figures look, and which method has which colour.

A method has one colour everywhere, from a palette that colour-blind readers can
tell apart (Okabe and Ito), and a marker of its own.
"""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

COLOURS = {
  'ste': '#000000',
  'multi_fc': '#0072B2',
  'lstm_fc': '#D55E00',
  'fc_grad': '#009E73',
  'kernel_wise': '#CC79A7',
  'feature_fc': '#E69F00',
}
MARKERS = {
  'ste': 'o',
  'multi_fc': 's',
  'lstm_fc': '^',
  'fc_grad': 'D',
  'kernel_wise': 'v',
  'feature_fc': 'P',
}
STYLE: Any = {
  'figure.dpi': 150,
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
  'legend.frameon': False,
  'svg.hashsalt': 'mq_jax',
}


def shade(colour: str, earlier: int) -> tuple[float, float, float]:
  """A method's colour, the paler the more of its settings came before.

  Never so pale that it could not be seen; beyond, line styles tell them apart.
  """
  rgb = np.array(to_rgb(colour))
  red, green, blue = 1 - (1 - rgb) * max(0.78**earlier, 0.4)
  return red, green, blue
