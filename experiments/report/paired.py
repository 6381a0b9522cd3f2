"""Differences from a baseline setting, paired over equal seeds."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure
from scipy import stats

from experiments.build.estimators import ESTIMATORS
from experiments.report import comparison
from experiments.report.plots import Measured, group_by_optimizer

COLUMNS = ('difference', '95 % of it from', 'to')
NOTE = (
  ' The column difference is the mean difference from the baseline over the'
  " seeds of both; its interval is Student's, for paired trials, and not"
  ' adjusted for the number of settings.'
)


class Difference(NamedTuple):
  """Mean paired difference of a score: of accuracies, in percentage points.

  Attributes:
    mean: Mean over the seeds that both settings have.
    interval: Ends of the 95 % interval; None for fewer than
      `comparison.MINIMUM_TRIALS` seeds, or equal differences.
    seeds: Number of these seeds.
  """

  mean: float
  interval: tuple[float, float] | None
  seeds: int


def difference(
  ours: comparison.Cell,
  baseline: comparison.Cell,
  score: str = 'test_accuracy',
) -> Difference | None:
  """Returns the difference of two settings in a score of their records.

  It is None without a common seed, and if the lengths or the base models of the
  runs differ.
  """
  common = sorted(ours.records.keys() & baseline.records.keys())
  if not common or _conditions(ours) != _conditions(baseline):
    return None
  pairs = [
    comparison.accuracies(
      cell._replace(records={seed: cell.records[seed] for seed in common}),
      score,
    )
    for cell in (ours, baseline)
  ]
  values = [a - b for a, b in zip(*pairs, strict=True)]
  ends = None
  # Equal differences have no spread that an interval could be based on.
  if len(values) >= comparison.MINIMUM_TRIALS and len({*values}) > 1:
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    ends = float(low), float(high)
  return Difference(statistics.fmean(values), ends, len(values))


def _conditions(cell: comparison.Cell) -> tuple[int, float | None]:
  return cell.epochs, cell.base_accuracy


def columns(
  setting: str,
  cells: Mapping[str, comparison.Cell | None],
  baselines: Mapping[str, str],
) -> dict[str, str]:
  """Returns the columns of one setting; empty for a baseline."""
  ours, baseline = cells[setting], cells.get(baselines.get(setting, ''))
  found = difference(ours, baseline) if ours and baseline else None
  numbers = (found.mean, *(found.interval or ())) if found else ()
  texts = [f'{number:+.2f}' for number in numbers]
  return dict.fromkeys(COLUMNS, '') | dict(zip(COLUMNS, texts, strict=False))


def draw(
  group: Measured, baselines: Mapping[str, str], title: str
) -> Figure | None:
  """Draws the difference of each setting, with one panel per optimizer.

  Args:
    group: Measurements.
    baselines: Setting to its baseline.
    title: Title of the figure.

  Returns:
    The figure; None if no setting has an interval. A point is a mean, and its
    bar the 95 % interval.
  """
  cells = {name: cell for name, _, cell in group}
  found: dict[str, tuple[float, float, float, int]] = {}
  for name, cell in cells.items():
    if baseline := cells.get(baselines.get(name, '')):
      value = difference(cell, baseline)
      if value and value.interval:
        found[name] = (value.mean, *value.interval, value.seeds)
  if not found:
    return None
  rows = [entry for entry in group if entry[0] in found]
  panels = group_by_optimizer(rows)
  counts = [len(panel) for panel in panels.values()]
  figure = Figure(figsize=(6.0, 0.24 * sum(counts) + 0.6 * len(panels) + 0.7))
  axes = figure.subplots(
    len(panels), 1, squeeze=False, sharex=True, height_ratios=counts
  )[:, 0]
  for axis, (optimizer, panel) in zip(axes, panels.items(), strict=True):
    for row, (name, config, _) in enumerate(panel):
      mean, low, high, _ = found[name]
      declared = ESTIMATORS[config.estimator]
      axis.errorbar(
        mean,
        row,
        xerr=[[mean - low], [high - mean]],
        color=declared.colour,
        marker=declared.marker,
        markersize=5,
      )
    names = [
      f'{name.partition("-")[2] or name}, {found[name][3]} seeds'
      for name, _, _ in panel
    ]
    axis.set_yticks(range(len(panel)), names, fontsize=7)
    axis.set_ylim(len(panel) - 0.5, -0.5)
    axis.axvline(0, color=ESTIMATORS['ste'].colour, linewidth=0.8)
    axis.set_title(optimizer)
  axes[-1].set_xlabel('difference from the baseline, percentage points')
  figure.suptitle(title)
  return figure
