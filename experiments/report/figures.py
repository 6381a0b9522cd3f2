"""The figures of a study, from the ledger, as PNG and SVG."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.records import ledger
from experiments.report import comparison, plot_style, plots
from experiments.report.plots import Measured
from experiments.study.spec import Study

MOST = 5  # curves a panel
# Their figures are drawn from two epochs on; of other studies the accuracy at
# the end says what so short a curve would.
OF_THE_PAPER = ('table1', 'table2', 'fig4')
# Their settings differ in more than one thing, which a table can say.
ONLY_TABLES = ('methods', 'table4', 'table4_small')
# Figure of the paper and its appendix: network and quantizer.
PAPER = {
  ('resnet20', 'dorefa'): 'figures 3 and 5',
  ('resnet20', 'bwn'): 'figure 6',
  ('resnet32', 'dorefa'): 'figure 7',
  ('resnet32', 'bwn'): 'figure 8',
  ('resnet44', 'dorefa'): 'figure 9',
  ('resnet44', 'bwn'): 'figure 10',
  ('resnet56', 'dorefa'): 'figure 11',
  ('resnet56', 'bwn'): 'figure 12',
  ('resnet110', 'dorefa'): 'figure 13',
  ('resnet110', 'bwn'): 'figure 14',
}


def write_all(
  studies: Mapping[str, Study],
  runs: Sequence[ledger.Run],
  out: pathlib.Path,
) -> list[pathlib.Path]:
  """Draws all that the ledger has; returns the paths of the files.

  The paper's tables come first. What only repeats a figure that was drawn
  before is left out.
  """
  paths = []
  seen: list[set[str]] = []
  drawn = set(studies) - set(ONLY_TABLES)
  for name in sorted(drawn, key=lambda name: (name[:5] != 'table', name)):
    study = studies[name]
    cells = (
      (setting, config, comparison.cell(config, runs))
      for setting, config in study.settings.items()
    )
    measured = [
      (setting, config, own)
      for setting, config, own in cells
      if own is not None and own.records
    ]
    with mpl.rc_context(plot_style.STYLE):
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
    label = f'{network}-{quantizer}'
    alike = plots.comparable(group)
    if len(alike) > 1 and not any(_names(alike) <= one for one in seen):
      drawn[f'{label}-ends'] = plots.ends(alike, f'{network}, {quantizer}')
    least = 2 if study in OF_THE_PAPER else 3
    group = [e for e in group if len(plots.first_trial(e[2])) >= least]
    drawn_before = any(_names(group) <= before for before in seen)
    seen += [_names(alike), _names(group)]
    if drawn_before:
      continue
    for part, some in enumerate(_few(group)):
      number = f'-{part + 1}' if len(group) > len(some) else ''
      drawn |= _curves(study, some, label, number)
  if study == 'fig4':
    with_factor = [e for e in measured if 's' in plots.first_trial(e[2])[-1]]
    if with_factor:
      drawn['factor'] = plots.factors(with_factor)
  return drawn


def _names(group: Measured) -> set[str]:
  """Of the entries in the ledger."""
  return {entry for _, _, own in group for entry in own.names}


def _few(group: Measured) -> list[Measured]:
  """Parts of a few curves a panel; the panel's first baseline is in each."""
  panels: dict[str, Measured] = {}
  for entry in group:
    panels.setdefault(entry[1].optimizer, []).append(entry)
  parts: list[Measured] = []
  for own in panels.values():
    first = [e for e in own if e[1].estimator == 'ste'][:1]
    others = [e for e in own if e not in first]
    for part, begin in enumerate(range(0, len(others) or 1, MOST - 1)):
      parts += [[] for _ in range(part + 1 - len(parts))]
      parts[part] += first + others[begin : begin + MOST - 1]
  return parts


def _curves(
  study: str, group: Measured, label: str, number: str
) -> dict[str, Figure]:
  drawn = {}
  config = group[0][1]
  for kind in plots.CURVES:
    title = f'{config.network}, {config.quantizer}'
    if study in ('table1', 'table2') and kind == 'loss':
      own = PAPER[config.network, config.quantizer]
      title += f' ({own} of the paper)'
    drawn[f'{label}-{kind}{number}'] = plots.curves(group, kind, title)
  # Entries of the ledger that are older than it have no histogram.
  looked_at = [e for e in group if 'histogram' in plots.first_trial(e[2])[-1]]
  if looked_at:
    drawn[f'{label}-weights{number}'] = plots.histograms(looked_at)
  return drawn


def save(figure: Figure, path: pathlib.Path) -> list[pathlib.Path]:
  """Writes `path` with `.png` and `.svg`; returns both."""
  path.parent.mkdir(parents=True, exist_ok=True)
  paths = [path.with_name(f'{path.name}.{suffix}') for suffix in ('png', 'svg')]
  figure.savefig(paths[0])
  figure.savefig(paths[1], metadata={'Date': None})
  return paths
