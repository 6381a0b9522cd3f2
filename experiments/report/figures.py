"""The figures of studies, from the ledger, as PNG and SVG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.records import ledger
from experiments.report import comparison, minutes, paired, plots, steps, tuned
from experiments.report.plots import Measured
from experiments.study.spec import Study

MAXIMUM = 5  # curves per panel
MINIMUM_EPOCHS = 3  # A shorter curve says no more than the accuracy at its end.
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


def write_all(
  studies: Mapping[str, Study], runs: Sequence[ledger.Run], out: pathlib.Path
) -> list[pathlib.Path]:
  """Draws the figures that the ledger gives; returns the paths of the files.

  The studies of published tables come first. A figure that only repeats the
  entries of an earlier one is left out.
  """
  paths = []
  drawn_entries: list[set[str]] = []
  drawn = [
    n
    for n, study in studies.items()
    if study.figures
    or study.over_time
    or study.over_steps
    or study.tuned
    or study.baselines
  ]
  for name in sorted(drawn, key=lambda n: (not studies[n].published, n)):
    study = studies[name]
    measured = [
      (setting, config, cell)
      for setting, config in study.settings.items()
      if (cell := comparison.cell(config, runs)) and cell.records
    ]
    with mpl.rc_context(STYLE):
      figures = {}
      if study.figures:
        figures = _figures(study.paper_figures, measured, drawn_entries)
      device, timed = minutes.comparable(measured)
      if study.over_time and timed:
        figures['minutes'] = minutes.over_time(device, timed, study.title)
      if study.over_steps and (
        over_steps := steps.over_steps(measured, study.title)
      ):
        figures['steps'] = over_steps
      if study.tuned and (found := tuned.best(study, runs)):
        figures['bits'] = tuned.draw(study, found)
      if study.baselines and (
        differences := paired.draw(measured, study.baselines, study.title)
      ):
        figures['differences'] = differences
      for label, figure in figures.items():
        paths += _save(figure, out / f'{name}-{label}')
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
  for names, group in groups.items():
    label, title = '-'.join(names), ', '.join(names)
    alike = plots.comparable(group)
    if len(alike) > 1 and _is_new(alike, drawn_entries):
      drawn[f'{label}-ends'] = plots.ends(alike, title)
    minimum = 2 if of_paper else MINIMUM_EPOCHS
    group = [e for e in group if len(plots.first_trial(e[2])) >= minimum]
    parts = _parts(group) if _is_new(group, drawn_entries) else []
    drawn_entries += [_names(alike), _names(group)]
    for index, part in enumerate(parts, start=1):
      number = f'-{index}' if len(group) > len(part) else ''
      for kind in plots.CURVES:
        source = of_paper.get(label) if kind == 'loss' else None
        remark = f' ({source} of the paper)' if source else ''
        figure = plots.curves(part, kind, title + remark)
        drawn[f'{label}-{kind}{number}'] = figure
      # Older entries of the ledger have no histogram.
      if with_weights := _with_key('histogram', part):
        drawn[f'{label}-weights{number}'] = plots.histograms(with_weights)
  if 'factor' in of_paper and (with_factor := _with_key('s', measured)):
    drawn['factor'] = plots.factors(with_factor, of_paper['factor'])
  return drawn


def _with_key(key: str, group: Measured) -> Measured:
  """Returns the measurements whose records have a key."""
  return [e for e in group if key in plots.first_trial(e[2])[-1]]


def _is_new(group: Measured, drawn_entries: list[set[str]]) -> bool:
  return not any(_names(group) <= names for names in drawn_entries)


def _names(group: Measured) -> set[str]:
  """Returns the names of the entries in the ledger."""
  return {name for _, _, cell in group for name in cell.names}


def _parts(group: Measured) -> list[Measured]:
  """Splits a group into parts of at most `MAXIMUM` curves per panel.

  The first baseline of a panel is in each part.
  """
  parts: list[Measured] = []
  for panel in plots.group_by_optimizer(group).values():
    first = [e for e in panel if e[1].estimator == 'ste'][:1]
    others = [e for e in panel if e not in first]
    for part, begin in enumerate(range(0, len(others) or 1, MAXIMUM - 1)):
      if part == len(parts):
        parts.append([])
      parts[part] += first + others[begin : begin + MAXIMUM - 1]
  return parts


def _save(figure: Figure, path: pathlib.Path) -> list[pathlib.Path]:
  """Writes `path` as PNG and SVG; returns both paths."""
  path.parent.mkdir(parents=True, exist_ok=True)
  paths = [path.with_name(f'{path.name}.{suffix}') for suffix in ('png', 'svg')]
  figure.savefig(paths[0])
  figure.savefig(paths[1], metadata={'Date': None})
  return paths
