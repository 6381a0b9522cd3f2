"""Draws the measurements of a group of settings."""

import collections
import operator
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from ml_collections import ConfigDict

from experiments.build.estimators import ESTIMATORS
from experiments.report import comparison

COLUMNS = 3  # panels per row
Curve = Callable[[dict[str, Any]], float]
Measured = list[tuple[str, ConfigDict, comparison.Cell]]

CURVES: dict[str, tuple[str, Curve]] = {
  'loss': ('training loss', lambda r: r['train_loss']),
  'accuracy': ('accuracy, %', lambda r: r['test_accuracy']),
  'flips': (
    'flipped codes, mean over layers, %',
    lambda r: 100 * statistics.fmean(r['flipped'].values()),
  ),
}


def curves(group: Measured, kind: str, title: str) -> Figure:
  """Draws a quantity over epochs, with one panel per optimizer.

  Args:
    group: Measurements.
    kind: A key of `CURVES`.
    title: Title of the figure.

  Returns:
    The figure. A line is the mean over trials; its band reaches from the
    minimum to the maximum.
  """
  label, curve = CURVES[kind]
  panels = group_by_optimizer(group)
  figure, axes = _grid(len(panels), COLUMNS, (3.6, 3.9))
  for axis, (optimizer, panel) in zip(axes, panels.items(), strict=True):
    drawn: collections.Counter[str] = collections.Counter()
    for name, config, cell in panel:
      declared, earlier = ESTIMATORS[config.estimator], drawn[config.estimator]
      band(
        axis,
        curve,
        cell,
        _short(name),
        color=shade(declared.colour, earlier),
        marker=declared.marker,
        linestyle=('-', '--', ':', '-.')[earlier % 4],
      )
      drawn[config.estimator] += 1
    axis.set_title(optimizer)
    axis.legend(
      fontsize=7, loc='upper center', bbox_to_anchor=(0.5, -0.18), ncols=1
    )
    _label_epochs(axis)
  if kind == 'accuracy':
    label = f'{images_of(group)} {label}'
  for axis in axes[::COLUMNS]:
    axis.set_ylabel(label)
  figure.suptitle(title)
  return figure


def group_by_optimizer(group: Measured) -> dict[str, Measured]:
  """Returns the measurements of each panel, which has one optimizer."""
  panels: dict[str, Measured] = {}
  for entry in group:
    panels.setdefault(entry[1].optimizer, []).append(entry)
  return panels


def _label_epochs(axis: Axes) -> None:
  axis.set_xlabel('epoch')
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _grid(
  number: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
  """Returns a figure of `number` panels in rows; `size` is in inches."""
  columns = min(columns, number)
  rows = -(-number // columns)
  figure = Figure(figsize=(size[0] * columns + 0.4, size[1] * rows))
  axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
  for axis in axes.flat[number:]:
    axis.set_axis_off()
  return figure, list(axes.flat[:number])


def images_of(group: Measured) -> str:
  """Returns what the accuracy of a group was measured on."""
  return 'held-out' if group[0][1].holdout else 'test'


def band(
  axis: Axes,
  curve: Curve,
  measured: comparison.Cell,
  label: str,
  color: Any,
  over: str = 'epoch',
  **style: Any,
) -> Line2D:
  """Draws the mean over trials, and a band from minimum to maximum.

  Args:
    axis: Where to draw.
    curve: The quantity of a record.
    measured: Measurements.
    label: Label without the number of trials.
    color: Colour of both.
    over: Key of the records for the horizontal axis: 'epoch' or 'step'.
    **style: Style of the line.

  Returns:
    The line of the mean.
  """
  values = np.array(
    [[curve(record) for record in trial] for trial in measured.records.values()]
  )
  x = [record[over] for record in first_trial(measured)]
  (line,) = axis.plot(
    x,
    values.mean(axis=0),
    color=color,
    markevery=max(1, len(x) // 10),
    markersize=4,
    label=label + _trials(measured),
    **style,
  )
  axis.fill_between(
    x,
    values.min(axis=0),
    values.max(axis=0),
    color=color,
    alpha=0.15,
    linewidth=0,
  )
  return line


def shade(colour: str, earlier: int) -> tuple[float, float, float]:
  """Returns a method's colour, paler with each of its earlier settings.

  The colour stays visible; from there on line styles distinguish the settings.
  """
  rgb = np.array(to_rgb(colour))
  red, green, blue = 1 - (1 - rgb) * max(0.78**earlier, 0.4)
  return red, green, blue


def first_trial(measured: comparison.Cell) -> list[dict[str, Any]]:
  """Returns the records of the first trial, one per epoch."""
  return next(iter(measured.records.values()))


def comparable(group: Measured) -> Measured:
  """Returns the settings that ran the most frequent number of epochs."""
  lengths = collections.Counter(cell.epochs for _, _, cell in group)
  if not lengths:
    return []
  epochs = max(lengths, key=lambda length: (lengths[length], length))
  return [entry for entry in group if entry[2].epochs == epochs]


def ends(group: Measured, title: str) -> Figure:
  """Draws the accuracy at the end, one row per setting.

  Args:
    group: Result of `comparable`.
    title: Title of the figure.

  Returns:
    The figure, with one panel per optimizer. A point is a mean over trials, and
    its bar reaches from the minimum to the maximum. The line marks the best
    straight-through rule.
  """
  panels = group_by_optimizer(group)
  counts = [len(panel) for panel in panels.values()]
  figure = Figure(figsize=(6.4, 0.2 * sum(counts) + 0.5 * len(panels) + 0.7))
  axes = figure.subplots(
    len(panels), 1, squeeze=False, sharex=True, height_ratios=counts
  )[:, 0]
  for axis, (optimizer, panel) in zip(axes, panels.items(), strict=True):
    baselines = []
    for row, (_, config, cell) in enumerate(panel):
      values = comparison.accuracies(cell)
      mean = statistics.fmean(values)
      declared = ESTIMATORS[config.estimator]
      axis.errorbar(
        mean,
        row,
        xerr=[[mean - min(values)], [max(values) - mean]],
        color=declared.colour,
        marker=declared.marker,
        markersize=5,
      )
      if config.estimator == 'ste':
        baselines.append(mean)
    if baselines:
      best, colour = max(baselines), ESTIMATORS['ste'].colour
      axis.axvline(best, color=colour, linewidth=0.8)
    axis.set_yticks(
      range(len(panel)),
      [_short(name) + _trials(cell) for name, _, cell in panel],
      fontsize=7,
    )
    axis.set_ylim(len(panel) - 0.5, -0.5)
    axis.set_title(optimizer)
  axes[-1].set_xlabel(f'{images_of(group)} accuracy, %')
  epochs = group[0][2].epochs
  figure.suptitle(f'{title}, {epochs} epoch{"s" if epochs > 1 else ""}')
  return figure


def _trials(measured: comparison.Cell) -> str:
  number = len(measured.records)
  return f', {number} trials' if number > 1 else ''


def _short(name: str) -> str:
  """Returns a setting's name without network, quantizer and optimizer."""
  return '-'.join(name.split('-')[3:]) or name


def factors(group: Measured, of_paper: str) -> Figure:
  """Draws the training loss and the factor s, on two axes.

  Args:
    group: Measurements of estimators with a factor s.
    of_paper: Figure of the paper that shows both.
  """
  figure = Figure(figsize=(5.4, 3.6))
  left = figure.subplots()
  right = left.twinx()
  for index, (_, config, cell) in enumerate(group):
    name = f'hidden {config.hidden}'
    for axis, key, style in ((left, 'train_loss', '-'), (right, 's', ':')):
      band(
        axis,
        operator.itemgetter(key),
        cell,
        name,
        color=shade(ESTIMATORS[config.estimator].colour, 2 * index),
        marker=('D', 's', '^', 'v')[index % 4],
        linestyle=style,
      )
  _label_epochs(left)
  left.set_ylabel('training loss (solid)')
  right.set_ylabel('factor s (dotted)')
  right.grid(visible=False)
  right.spines['right'].set_visible(True)
  left.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=3)
  figure.suptitle(f'FCGrad: loss and amplification ({of_paper})')
  return figure


def histograms(group: Measured) -> Figure:
  """Draws the distribution of W̃ over the epochs of each first trial."""
  figure, axes = _grid(len(group), 4, (2.3, 2.5))
  for axis, (name, config, cell) in zip(axes, group, strict=True):
    trial = first_trial(cell)
    counts = np.array([record['histogram'] for record in trial]).T
    share = 100 * counts / counts.sum(axis=0, keepdims=True)
    image = axis.imshow(
      share,
      origin='lower',
      aspect='auto',
      extent=(0.5, len(trial) + 0.5, -4, 4),
      cmap='cividis',
      vmin=0,
      vmax=8,
    )
    axis.set_title(f'{config.optimizer} {_short(name)}', fontsize=7)
    axis.grid(visible=False)
    _label_epochs(axis)
  for axis in axes[::4]:
    axis.set_ylabel('W̃, standard deviations')
  figure.colorbar(image, ax=axes, label='weights, %', shrink=0.8)
  figure.suptitle(f'{group[0][1].network}, {group[0][1].quantizer}')
  return figure
