"""Draws accuracy over the minutes of training."""

import collections
import statistics

from matplotlib import ticker
from matplotlib.figure import Figure

from experiments.report import comparison
from experiments.report.plots import Measured, images_of


def comparable(group: Measured) -> tuple[str, Measured]:
  """Returns the kind of device of most settings, and their complete runs.

  A setting counts if it ran all epochs of its configuration, with one trial per
  program: the minutes of several trials in one program are no more than those
  of one. A recipe of one length is no line.
  """
  by_device: dict[str, Measured] = {}
  for entry in group:
    _, config, cell = entry
    if (
      cell.epochs == config.epochs and cell.records and len(cell.machines) == 1
    ):
      ((device, trials),) = cell.machines
      if trials == 1:
        by_device.setdefault(device, []).append(entry)
  if not by_device:
    return '', []
  device = max(by_device, key=lambda name: (len(by_device[name]), name))
  counts = collections.Counter(recipe(name) for name, _, _ in by_device[device])
  return device, [e for e in by_device[device] if counts[recipe(e[0])] > 1]


def recipe(name: str) -> str:
  """Returns the recipe in the name of a setting, 'RECIPE-EPOCHS'."""
  return name.rpartition('-')[0]


def over_time(device: str, group: Measured, title: str) -> Figure:
  """Draws the accuracy at the end over the minutes of training.

  Args:
    device: Kind of device of the group. The runs should be of one machine;
      logs name only its kind.
    group: Result of `comparable`; the names of its settings are
      'RECIPE-EPOCHS'.
    title: Title of the figure.

  Returns:
    The figure, with one line per recipe and one point per length. A point is a
    mean over trials, and its bar reaches from the minimum to the maximum. Every
    epoch of a recipe counts as its fastest one, because other work on the
    machine slows epochs. Tests and compiling do not count.
  """
  figure = Figure(figsize=(5.4, 3.8))
  axis = figure.subplots()
  recipes: dict[str, Measured] = {}
  for entry in group:
    recipes.setdefault(recipe(entry[0]), []).append(entry)
  for index, (name, entries) in enumerate(recipes.items()):
    entries = sorted(entries, key=lambda entry: entry[2].epochs)
    minutes = _fastest_epoch(entries) / 60
    times = [minutes * cell.epochs for _, _, cell in entries]
    values = [comparison.accuracies(cell) for _, _, cell in entries]
    means = [statistics.fmean(v) for v in values]
    bars = [
      [mean - min(v) for mean, v in zip(means, values, strict=True)],
      [max(v) - mean for mean, v in zip(means, values, strict=True)],
    ]
    axis.errorbar(
      times,
      means,
      yerr=bars,
      marker='osD^v'[index % 5],
      markersize=4,
      label=name,
    )
    for (_, _, cell), x, y in zip(entries, times, means, strict=True):
      axis.annotate(
        f'{cell.epochs}',
        (x, y),
        textcoords='offset points',
        xytext=(3, -9),
        fontsize=6,
      )
  axis.set_xscale('log', base=2)
  axis.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
  axis.xaxis.set_minor_formatter(ticker.NullFormatter())
  axis.set_xlabel(
    f'epochs times the minutes of the fastest one, {device}'
    ' (the numbers are epochs)'
  )
  axis.set_ylabel(f'{images_of(group)} accuracy, %')
  axis.legend(fontsize=7)
  figure.suptitle(title)
  return figure


def _fastest_epoch(entries: Measured) -> float:
  """Returns the seconds of the fastest epoch of a recipe."""
  return min(
    record['seconds']
    for _, _, cell in entries
    for records in cell.records.values()
    for record in records
  )
