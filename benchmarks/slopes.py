"""Draws the slope of each rule without φ.

python -m benchmarks.slopes --figure docs/figures/slopes.png
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import mq_jax
from benchmarks import rules

PROGRESS = (0.0, 0.5, 1.0)
COLOURS = ('#56B4E9', '#0072B2', '#D55E00')  # of Okabe and Ito
COLUMNS = 5
# Distances from the threshold; the levels are −1 and 1.
DISTANCES = np.linspace(-2, 2, 801)


def slope(
  rule: mq_jax.GradientEstimator, progress: float, g: float = 1.0
) -> np.ndarray:
  """Returns the factor of a gradient `g` at `DISTANCES` from a threshold.

  Args:
    rule: Estimator without φ.
    progress: Share of the schedule that is done.
    g: Straight-through gradient.
  """
  w = {'w': jnp.asarray(DISTANCES, jnp.float32)}
  ones = {'w': jnp.full_like(w['w'], g)}
  signals = mq_jax.Signals(
    g_hat=ones,
    g_ste=ones,
    w_tilde=w,
    distance=w,
    cell={'w': jnp.full_like(w['w'], 2)},
    step=round(progress * rules.STEPS),
  )
  state = rule.init_state(jax.random.key(0), w)
  return np.asarray(rule.apply((), signals, state)[0]['w']) / g


def draw() -> Figure:
  """Returns one panel per rule, with a line where the slope changes."""
  drawn = rules.rules()
  rows = -(-len(drawn) // COLUMNS)
  figure = Figure((2.3 * COLUMNS, 2.2 * rows), layout='constrained')
  panels = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False).flat
  for (name, rule), panel in zip(drawn.items(), panels, strict=False):
    for progress, colour in zip(PROGRESS, COLOURS, strict=True):
      line = slope(rule, progress)
      panel.plot(DISTANCES, line, color=colour, linewidth=1.5)
    against = slope(rule, 0.0, g=-1.0)
    if not np.array_equal(against, slope(rule, 0.0)):
      panel.plot(DISTANCES, against, color='black', linestyle=':')
    panel.set_title(name, fontsize=10)
    panel.axhline(0, color='0.8', linewidth=0.8, zorder=0)
    for level in (-1, 1):
      panel.axvline(level, color='0.8', linewidth=0.8, zorder=0)
  for panel in list(panels):
    panel.set_axis_off()
  figure.supxlabel('distance from the threshold; the levels are −1 and 1')
  figure.supylabel('slope')
  labels = [f'progress {progress:g}' for progress in PROGRESS]
  figure.legend(
    [*figure.axes[0].lines[: len(labels)]],
    labels,
    loc='outside upper center',
    ncols=len(labels),
    frameon=False,
  )
  return figure


def main() -> None:
  """Writes the figure."""
  options = argparse.ArgumentParser(description=__doc__)
  options.add_argument('--figure', required=True, metavar='FILE')
  draw().savefig(options.parse_args().figure, dpi=110)


if __name__ == '__main__':
  main()
