"""The figure of bits per symbol over the steps of training."""

import functools
from typing import Any

from matplotlib.figure import Figure

from experiments.build.estimators import ESTIMATORS
from experiments.report import comparison, plots
from experiments.report.tuned import unit_of

_FULL = 'full'
_LEGEND_WIDTH = 1.3  # inches of one entry


def over_steps(group: plots.Measured, title: str) -> Figure | None:
  """Draws the test loss in bits, with one panel per quantizer.

  Args:
    group: Measurements of settings called 'FORWARD-BACKWARD', and of 'full' in
      full precision, which each panel repeats.
    title: Title of the figure.

  Returns:
    The figure; None without a setting of few bits. A line is the mean over
    trials; its band reaches from the minimum to the maximum.
  """
  panels: dict[str, dict[str, tuple[str, comparison.Cell]]] = {}
  for name, config, cell in group:
    forward, _, backward = name.partition('-')
    panels.setdefault(forward, {})[backward] = config.estimator, cell
  full = panels.pop(_FULL, {})
  if not panels:
    return None
  figure = Figure(figsize=(2.0 * len(panels) + 0.6, 3.6))
  axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
  lines = {}
  for axis, (forward, panel) in zip(axes, panels.items(), strict=True):
    draw = functools.partial(plots.band, axis, _bits, over='step')
    for _, cell in full.values():
      name = 'full precision'
      lines[name] = draw(cell, name, color='0.4', linestyle='--')
    for backward, (estimator, cell) in panel.items():
      declared = ESTIMATORS[estimator]
      lines[backward] = draw(
        cell, backward, color=declared.colour, marker=declared.marker
      )
    axis.set_title(forward)
    axis.set_xlabel('step')
  axes[0].set_ylabel(f'test loss, {unit_of(config for _, config, _ in group)}')
  figure.legend(
    lines.values(),
    lines.keys(),
    loc='outside lower center',
    ncols=int(figure.get_figwidth() / _LEGEND_WIDTH),
  )
  figure.suptitle(title)
  return figure


def _bits(record: dict[str, Any]) -> float:
  return comparison.to_bits(record['test_loss'])
