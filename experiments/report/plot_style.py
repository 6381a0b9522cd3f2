"""The style of all figures."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

STYLE: Any = {
  'figure.constrained_layout.use': True,
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
