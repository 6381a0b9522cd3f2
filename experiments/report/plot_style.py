"""The style of figures, and the colours and markers of the methods.

A method has the same colour and marker in all figures. The colours are those of
Okabe and Ito, which colour-blind readers can distinguish.
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
  """Returns a method's colour, paler with each of its earlier settings.

  The colour stays visible; from there on line styles distinguish the settings.
  """
  rgb = np.array(to_rgb(colour))
  red, green, blue = 1 - (1 - rgb) * max(0.78**earlier, 0.4)
  return red, green, blue
