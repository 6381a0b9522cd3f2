"""Figures from the ledger, as PNG and SVG.

A method has one colour everywhere, from a palette that colour-blind readers can
tell apart (Okabe and Ito), and a marker of its own.
"""

import collections
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ml_collections import ConfigDict

from experiments import comparison, ledger
from experiments.settings import Study

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
MOST = 8  # curves a panel
# Figure of the paper and its appendix: network and quantizer.
PAPER = {
  ('resnet20', 'dorefa'): '3 and 5',
  ('resnet20', 'bwn'): '6',
  ('resnet32', 'dorefa'): '7',
  ('resnet32', 'bwn'): '8',
  ('resnet44', 'dorefa'): '9',
  ('resnet44', 'bwn'): '10',
  ('resnet56', 'dorefa'): '11',
  ('resnet56', 'bwn'): '12',
  ('resnet110', 'dorefa'): '13',
  ('resnet110', 'bwn'): '14',
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


def write_all(
  studies: Mapping[str, Study],
  runs: Sequence[ledger.Run],
  out: pathlib.Path,
) -> list[pathlib.Path]:
  """Draws all that the ledger has; returns the paths of the files.

  The paper's tables come first. What only repeats curves of a figure that was
  drawn before is left out, and so are runs of one epoch, which have no curve.
  """
  paths = []
  seen: list[set[str]] = []
  for name in sorted(studies, key=lambda name: (name[:5] != 'table', name)):
    study = studies[name]
    cells = (
      (setting, config, comparison.cell(config, runs))
      for setting, config in study.settings.items()
    )
    measured = [
      (setting, config, own)
      for setting, config, own in cells
      if own is not None and any(len(r) > 1 for r in own.records.values())
    ]
    with mpl.rc_context(STYLE):
      for label, figure in _figures(name, measured, seen).items():
        paths += save(figure, out / f'{name}-{label}')
  return paths


def _figures(
  study: str, measured: Measured, seen: list[set[str]]
) -> dict[str, Figure]:
  drawn: dict[str, Figure] = {}
  groups: dict[tuple[str, str], Measured] = {}
  for entry in measured:
    config = entry[1]
    groups.setdefault((config.network, config.quantizer), []).append(entry)
  for (network, quantizer), group in groups.items():
    entries = {entry for _, _, own in group for entry in own.names}
    if any(entries <= before for before in seen):
      continue
    seen.append(entries)
    for part, some in enumerate(_few(group)):
      number = f'-{part + 1}' if len(group) > len(some) else ''
      _draw(drawn, study, network, quantizer, some, number)
  if any('s' in _last(own) for _, _, own in measured) and study == 'fig4':
    drawn['factor'] = factors(measured)
  return drawn


def _few(group: Measured) -> list[Measured]:
  """Parts of at most eight curves a panel, in their order."""
  parts: list[Measured] = []
  panels: collections.Counter[str] = collections.Counter()
  for entry in group:
    part = panels[entry[1].optimizer] // MOST
    panels[entry[1].optimizer] += 1
    parts += [[] for _ in range(part + 1 - len(parts))]
    parts[part].append(entry)
  return parts


def _draw(
  drawn: dict[str, Figure],
  study: str,
  network: str,
  quantizer: str,
  group: Measured,
  number: str,
) -> None:
  for kind in CURVES:
    title = f'{network}, {quantizer}'
    if study in ('table1', 'table2') and kind == 'loss':
      title += f' (figure {PAPER[network, quantizer]} of the paper)'
    drawn[f'{network}-{quantizer}-{kind}{number}'] = curves(group, kind, title)
  # Entries of the ledger that are older than it have no histogram.
  looked_at = [entry for entry in group if 'histogram' in _last(entry[2])]
  if looked_at:
    drawn[f'{network}-{quantizer}-weights{number}'] = histograms(looked_at)


def _last(own: comparison.Cell) -> dict[str, Any]:
  return next(iter(own.records.values()))[-1]


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
  optimizers = list(dict.fromkeys(config.optimizer for _, config, _ in group))
  figure = Figure(figsize=(3.6 * len(optimizers) + 0.4, 3.9))
  axes = figure.subplots(1, len(optimizers), squeeze=False, sharey=True)[0]
  for axis, optimizer in zip(axes, optimizers, strict=True):
    own = [entry for entry in group if entry[1].optimizer == optimizer]
    seen: collections.Counter[str] = collections.Counter()
    for name, config, measured in own:
      _line(axis, curve, name, config, measured, seen[config.estimator])
      seen[config.estimator] += 1
    axis.set_title(optimizer)
    axis.set_xlabel('epoch')
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(
      fontsize=7, loc='upper center', bbox_to_anchor=(0.5, -0.18), ncols=1
    )
  if kind == 'accuracy':
    label = f'{"held-out" if group[0][1].holdout else "test"} {label}'
  axes[0].set_ylabel(label)
  figure.suptitle(title)
  figure.set_layout_engine('constrained')
  return figure


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


def save(figure: Figure, path: pathlib.Path) -> list[pathlib.Path]:
  """Writes `path` with `.png` and `.svg`; returns both."""
  path.parent.mkdir(parents=True, exist_ok=True)
  paths = [path.with_name(f'{path.name}.{suffix}') for suffix in ('png', 'svg')]
  figure.savefig(paths[0])
  figure.savefig(paths[1], metadata={'Date': None})
  return paths
