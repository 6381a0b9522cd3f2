"""One figure each: what the ledger has of some settings, drawn.

A method has one colour everywhere, from a palette that colour-blind readers can
tell apart (Okabe and Ito), and a marker of its own.
"""

import collections
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ml_collections import ConfigDict

from experiments import comparison

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
Curve = Callable[[dict[str, Any]], float]
Measured = list[tuple[str, ConfigDict, comparison.Cell]]

CURVES: dict[str, tuple[str, Curve]] = {
  'loss': ('training loss', lambda r: r['train_loss']),
  'accuracy': ('accuracy, %', lambda r: r['test_accuracy']),
  'flips': (
    'codes turned over, mean over layers, %',
    lambda r: 100 * statistics.fmean(r['flipped'].values()),
  ),
}


def curves(group: Measured, kind: str, title: str) -> Figure:
  """One panel an optimizer: a number over epochs, band over trials.

  Args:
    group: What was measured.
    kind: A key of `CURVES`.
    title: Of the figure.

  Returns:
    The figure. A line is the mean over trials, its band from the least to the
    largest.
  """
  label, curve = CURVES[kind]
  figure, panels = _panels(group)
  for optimizer, axis in panels.items():
    own = [entry for entry in group if entry[1].optimizer == optimizer]
    seen: collections.Counter[str] = collections.Counter()
    for name, config, measured in own:
      _line(axis, curve, name, config, measured, seen[config.estimator])
      seen[config.estimator] += 1
    axis.set_xlabel('epoch')
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  if kind == 'accuracy':
    label = f'{_images(group)} {label}'
  _finish(figure, panels, label, title)
  return figure


def _panels(group: Measured) -> tuple[Figure, dict[str, Axes]]:
  """Side by side, one an optimizer."""
  optimizers = list(dict.fromkeys(config.optimizer for _, config, _ in group))
  figure = Figure(figsize=(3.6 * len(optimizers) + 0.4, 3.9))
  axes = figure.subplots(1, len(optimizers), squeeze=False, sharey=True)[0]
  return figure, dict(zip(optimizers, axes, strict=True))


def _finish(
  figure: Figure, panels: dict[str, Axes], label: str, title: str
) -> None:
  for optimizer, axis in panels.items():
    axis.set_title(optimizer)
    axis.legend(
      fontsize=7, loc='upper center', bbox_to_anchor=(0.5, -0.18), ncols=1
    )
  next(iter(panels.values())).set_ylabel(label)
  figure.suptitle(title)
  figure.set_layout_engine('constrained')


def _images(group: Measured) -> str:
  return 'held-out' if group[0][1].holdout else 'test'


def _line(
  axis: Axes,
  curve: Curve,
  name: str,
  config: ConfigDict,
  measured: comparison.Cell,
  earlier: int,
) -> None:
  values = np.array(
    [[curve(record) for record in trial] for trial in measured.records.values()]
  )
  epochs = np.arange(1, values.shape[1] + 1)
  colour = shade(COLOURS[config.estimator], earlier)
  trials = f', {len(values)} trials' if len(values) > 1 else ''
  axis.plot(
    epochs,
    values.mean(axis=0),
    color=colour,
    marker=MARKERS[config.estimator],
    markevery=max(1, len(epochs) // 10),
    markersize=4,
    linestyle=('-', '--', ':', '-.')[earlier % 4],
    label=_short(name) + trials,
  )
  axis.fill_between(
    epochs,
    values.min(axis=0),
    values.max(axis=0),
    color=colour,
    alpha=0.15,
    linewidth=0,
  )


def first_trial(measured: comparison.Cell) -> list[dict[str, Any]]:
  """The records of the first trial, one an epoch."""
  return next(iter(measured.records.values()))


def swept(group: Measured) -> Measured:
  """What `rates` compares: runs as long as those that sweep the step size.

  Args:
    group: What was measured.

  Returns:
    Of the number of epochs at which the straight-through rule has the most
    step sizes, all that ran so long; nothing if it has fewer than three.
  """
  lengths: dict[int, set[float]] = {}
  for _, config, own in group:
    if config.estimator == 'ste':
      lengths.setdefault(own.epochs, set()).add(config.learning_rate)
  if not lengths:
    return []
  epochs = max(lengths, key=lambda n: (len(lengths[n]), n))
  if len(lengths[epochs]) < 3:
    return []
  return [entry for entry in group if entry[2].epochs == epochs]


def rates(group: Measured, title: str) -> Figure:
  """Accuracy over the step size: the straight-through rule, and what learns.

  Args:
    group: What `swept` returned.
    title: Of the figure.

  Returns:
    The figure, one panel an optimizer. A point is a mean over trials, its bar
    from the least to the largest; points at one step size stand side by side.
  """
  figure, panels = _panels(group)
  for optimizer, axis in panels.items():
    seen: collections.Counter[str] = collections.Counter()
    ste: list[tuple[float, float]] = []
    for name, config, own in group:
      if config.optimizer != optimizer:
        continue
      values = comparison.accuracies(own)
      mean, baseline = statistics.fmean(values), config.estimator == 'ste'
      earlier = 0 if baseline else seen[config.estimator]
      aside = 0 if baseline else seen.total() + 1
      axis.errorbar(
        config.learning_rate * 1.1**aside,
        mean,
        [[mean - min(values)], [max(values) - mean]],
        color=shade(COLOURS[config.estimator], earlier),
        marker=MARKERS[config.estimator],
        linestyle='',
        label=None if baseline else _short(name),
      )
      if baseline:
        ste.append((config.learning_rate, mean))
      else:
        seen[config.estimator] += 1
    axis.plot(
      *zip(*sorted(ste), strict=True), color=COLOURS['ste'], label='ste'
    )
    axis.set_xscale('log')
    axis.set_xlabel('step size α')
  label = f'{_images(group)} accuracy, %'
  _finish(figure, panels, label, f'{title}, {group[0][2].epochs} epochs')
  return figure


def shade(colour: str, earlier: int) -> tuple[float, float, float]:
  """A method's colour, the paler the more of its settings came before."""
  rgb = np.array(to_rgb(colour))
  red, green, blue = 1 - (1 - rgb) * 0.72**earlier
  return red, green, blue


def _short(name: str) -> str:
  """A setting's name without network, quantizer and optimizer."""
  return '-'.join(name.split('-')[3:]) or name


def factors(group: Measured) -> Figure:
  """Figure 4: training loss and the factor s, on two axes."""
  figure = Figure(figsize=(5.4, 3.6))
  left = figure.subplots()
  right = left.twinx()
  palette = list(COLOURS.values())[1:]
  for index, (_, config, own) in enumerate(group):
    loss, factor = (
      np.array(
        [[record[key] for record in trial] for trial in own.records.values()]
      ).mean(axis=0)
      for key in ('train_loss', 's')
    )
    epochs = np.arange(1, len(loss) + 1)
    colour = palette[index % len(palette)]
    left.plot(epochs, loss, color=colour, label=f'hidden {config.hidden}')
    right.plot(epochs, factor, color=colour, linestyle=':')
  left.set_xlabel('epoch')
  left.xaxis.set_major_locator(MaxNLocator(integer=True))
  left.set_ylabel('training loss (solid)')
  right.set_ylabel('factor s (dotted)')
  right.grid(visible=False)
  right.spines['right'].set_visible(True)
  left.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=3)
  figure.suptitle('FCGrad: loss and amplification (figure 4)')
  figure.set_layout_engine('constrained')
  return figure


def histograms(group: Measured) -> Figure:
  """How W̃ lies within its layer, epoch by epoch, of each first trial."""
  columns = min(4, len(group))
  rows = -(-len(group) // columns)
  figure = Figure(figsize=(2.3 * columns + 0.6, 2.2 * rows + 0.5))
  axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
  for axis in axes.flat[len(group) :]:
    axis.set_axis_off()
  for axis, (name, config, own) in zip(axes.flat, group, strict=False):
    trial = next(iter(own.records.values()))
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
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  for axis in axes[-1]:
    axis.set_xlabel('epoch')
  for axis in axes[:, 0]:
    axis.set_ylabel('W̃, standard deviations')
  figure.colorbar(image, ax=axes, label='weights, %', shrink=0.8)
  figure.suptitle(f'{group[0][1].network}, {group[0][1].quantizer}')
  figure.set_layout_engine('constrained')
  return figure
