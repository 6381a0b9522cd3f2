"""Draws accuracy over the minutes of training."""

import statistics

from matplotlib.figure import Figure

from experiments.report import comparison
from experiments.report.plots import Measured, images_of


def complete(group: Measured) -> Measured:
  """Returns the settings that ran all epochs of their configuration."""
  return [e for e in group if e[2].epochs == e[1].epochs and e[2].records]


def over_time(group: Measured, title: str) -> Figure:
  """Draws the accuracy at the end over the minutes of training.

  Args:
    group: Result of `complete`; the names of its settings are 'RECIPE-EPOCHS'.
    title: Title of the figure.

  Returns:
    The figure, with one line per recipe and one point per length. A point is a
    mean over trials, and its bar reaches from the minimum to the maximum. Tests
    and compiling do not count.
  """
  figure = Figure(figsize=(5.4, 3.8))
  axis = figure.subplots()
  recipes: dict[str, Measured] = {}
  for entry in group:
    recipes.setdefault(entry[0].rpartition('-')[0], []).append(entry)
  for index, (recipe, entries) in enumerate(recipes.items()):
    entries = sorted(entries, key=lambda entry: entry[2].epochs)
    values = [comparison.accuracies(cell) for _, _, cell in entries]
    means = [statistics.fmean(v) for v in values]
    bars = [
      [mean - min(v) for mean, v in zip(means, values, strict=True)],
      [max(v) - mean for mean, v in zip(means, values, strict=True)],
    ]
    axis.errorbar(
      [_minutes(cell) for _, _, cell in entries],
      means,
      yerr=bars,
      marker='osD^v'[index % 5],
      markersize=4,
      label=recipe,
    )
    for (_, _, cell), mean in zip(entries, means, strict=True):
      axis.annotate(
        f'{cell.epochs}',
        (_minutes(cell), mean),
        textcoords='offset points',
        xytext=(3, -9),
        fontsize=6,
      )
  axis.set_xscale('log')
  axis.set_xlabel('minutes of training (the numbers are epochs)')
  axis.set_ylabel(f'{images_of(group)} accuracy, %')
  axis.legend(fontsize=7)
  figure.suptitle(title)
  return figure


def _minutes(cell: comparison.Cell) -> float:
  """Returns the minutes of all epochs, in the mean over trials."""
  return statistics.fmean(
    sum(record['seconds'] for record in records) / 60
    for records in cell.records.values()
  )
