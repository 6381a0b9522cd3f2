"""The figures of studies, from the ledger, as PNG and SVG."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.records import ledger
from experiments.report import comparison, plot_style, plots
from experiments.report.plots import Measured
from experiments.study.spec import Study

MAXIMUM = 5  # curves per panel
MINIMUM_EPOCHS = 3  # Of fewer epochs, the accuracy at the end says as much.


def write_all(
  studies: Mapping[str, Study],
  runs: Sequence[ledger.Run],
  out: pathlib.Path,
) -> list[pathlib.Path]:
  """Draws the figures that the ledger gives; returns the paths of the files.

  The studies of published tables come first. A figure that only repeats the
  entries of an earlier one is left out.
  """
  paths = []
  drawn_entries: list[set[str]] = []
  drawn = [name for name, study in studies.items() if study.figures]
  for name in sorted(drawn, key=lambda n: (not studies[n].published, n)):
    study = studies[name]
    cells = (
      (setting, config, comparison.cell(config, runs))
      for setting, config in study.settings.items()
    )
    measured = [
      (setting, config, cell)
      for setting, config, cell in cells
      if cell is not None and cell.records
    ]
    with mpl.rc_context(plot_style.STYLE):
      figures = _figures(study.paper_figures, measured, drawn_entries)
      for label, figure in figures.items():
        paths += save(figure, out / f'{name}-{label}')
  return paths


def _figures(
  of_paper: Mapping[str, str], measured: Measured, drawn_entries: list[set[str]]
) -> dict[str, Figure]:
  """Returns the figures of one study by label; extends `drawn_entries`."""
  drawn: dict[str, Figure] = {}
  groups: dict[tuple[str, str], Measured] = {}
  for entry in measured:
    config = entry[1]
    groups.setdefault((config.network, config.quantizer), []).append(entry)
  for (network, quantizer), group in groups.items():
    label = f'{network}-{quantizer}'
    alike = plots.comparable(group)
    if len(alike) > 1 and not any(
      _names(alike) <= names for names in drawn_entries
    ):
      drawn[f'{label}-ends'] = plots.ends(alike, f'{network}, {quantizer}')
    minimum = 2 if of_paper else MINIMUM_EPOCHS
    group = [e for e in group if len(plots.first_trial(e[2])) >= minimum]
    repeated = any(_names(group) <= names for names in drawn_entries)
    drawn_entries += [_names(alike), _names(group)]
    if repeated:
      continue
    for index, part in enumerate(_parts(group), start=1):
      number = f'-{index}' if len(group) > len(part) else ''
      drawn |= _curves(of_paper.get(label, ''), part, label, number)
  if 'factor' in of_paper:
    with_factor = [e for e in measured if 's' in plots.first_trial(e[2])[-1]]
    if with_factor:
      drawn['factor'] = plots.factors(with_factor, of_paper['factor'])
  return drawn


def _names(group: Measured) -> set[str]:
  """Returns the names of the entries in the ledger."""
  return {name for _, _, cell in group for name in cell.names}


def _parts(group: Measured) -> list[Measured]:
  """Splits a group into parts of at most `MAXIMUM` curves per panel.

  The first baseline of a panel is in each part.
  """
  panels: dict[str, Measured] = {}
  for entry in group:
    panels.setdefault(entry[1].optimizer, []).append(entry)
  parts: list[Measured] = []
  for panel in panels.values():
    first = [e for e in panel if e[1].estimator == 'ste'][:1]
    others = [e for e in panel if e not in first]
    for part, begin in enumerate(range(0, len(others) or 1, MAXIMUM - 1)):
      parts += [[] for _ in range(part + 1 - len(parts))]
      parts[part] += first + others[begin : begin + MAXIMUM - 1]
  return parts


def _curves(
  of_paper: str, group: Measured, label: str, number: str
) -> dict[str, Figure]:
  drawn = {}
  config = group[0][1]
  for kind in plots.CURVES:
    title = f'{config.network}, {config.quantizer}'
    if of_paper and kind == 'loss':
      title += f' ({of_paper} of the paper)'
    drawn[f'{label}-{kind}{number}'] = plots.curves(group, kind, title)
  # Older entries of the ledger have no histogram.
  with_weights = [
    e for e in group if 'histogram' in plots.first_trial(e[2])[-1]
  ]
  if with_weights:
    drawn[f'{label}-weights{number}'] = plots.histograms(with_weights)
  return drawn


def save(figure: Figure, path: pathlib.Path) -> list[pathlib.Path]:
  """Writes `path` as PNG and SVG; returns both paths."""
  path.parent.mkdir(parents=True, exist_ok=True)
  paths = [path.with_name(f'{path.name}.{suffix}') for suffix in ('png', 'svg')]
  figure.savefig(paths[0])
  figure.savefig(paths[1], metadata={'Date': None})
  return paths
