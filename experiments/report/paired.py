"""Differences from a baseline setting, paired over equal seeds."""

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, StrMethodFormatter
from scipy import stats

from experiments.build.estimators import ESTIMATORS
from experiments.report import comparison
from experiments.report.plots import Measured, group_by_optimizer
from experiments.report.tables import join_distinct

COLUMNS = ('difference', '95 % of it from', 'to', 'p')
NOTE = (
  ' The column difference is the mean difference from the baseline over the'
  " seeds of both. Its interval is Student's, for paired trials, and not"
  " adjusted. The column p is the p-value of Student's test that the"
  ' difference is 0, adjusted for the number of such tests in this table'
  ' (Holm).'
)
# The axis of a figure is linear up to this multiple of the median difference.
_LINEAR_UP_TO = 4
_SIGNIFICANT = 0.05  # adjusted p-value

EMPTY = dict.fromkeys(COLUMNS, '')


class Difference(NamedTuple):
  """Mean paired difference of a score: of accuracies, in percentage points.

  Attributes:
    mean: Mean over the seeds that both settings have.
    interval: Ends of the 95 % interval; None for fewer than
      `comparison.MINIMUM_TRIALS` seeds, or equal differences.
    p: p-value of the two-sided test that the difference is 0, not adjusted;
      None like the interval.
    seeds: Number of these seeds.
  """

  mean: float
  interval: tuple[float, float] | None
  p: float | None
  seeds: int


def difference(
  ours: comparison.Cell,
  baseline: comparison.Cell,
  score: str = 'test_accuracy',
) -> Difference | None:
  """Returns the difference of two settings in a score of their records.

  It is None without a common seed, and if the lengths, the base models or the
  data of the runs differ.
  """
  common = sorted(ours.records.keys() & baseline.records.keys())
  if not common or not are_comparable(ours, baseline):
    return None
  pairs = [
    comparison.accuracies(
      cell._replace(records={seed: cell.records[seed] for seed in common}),
      score,
    )
    for cell in (ours, baseline)
  ]
  values = [a - b for a, b in zip(*pairs, strict=True)]
  # Equal differences have no spread that an interval could be based on.
  ends = comparison.interval(values, max(map(abs, itertools.chain(*pairs))))
  p = float(stats.ttest_1samp(values, 0).pvalue) if ends else None
  return Difference(statistics.fmean(values), ends, p, len(values))


def are_comparable(one: comparison.Cell, other: comparison.Cell) -> bool:
  """Returns True if length, data and base model of two cells agree."""
  if one.data and other.data and one.data != other.data:
    return False
  # The accuracy of one base model differs between devices.
  same_base = (
    one.base == other.base
    if one.base and other.base
    else one.base_accuracy == other.base_accuracy
  )
  return same_base and one.epochs == other.epochs


def differences(
  cells: Mapping[str, comparison.Cell | None], baselines: Mapping[str, str]
) -> dict[str, Difference]:
  """Returns the difference of each setting that has one, by its name."""
  found = {}
  for name, ours in cells.items():
    baseline = cells.get(baselines.get(name, ''))
    if ours and baseline and (value := difference(ours, baseline)):
      found[name] = value
  return found


def holm(values: Mapping[str, float]) -> dict[str, float]:
  """Returns p-values that are adjusted for their number (Holm 1979).

  Args:
    values: p-value of each test.
  """
  adjusted: dict[str, float] = {}
  largest = 0.0
  for tested, name in enumerate(sorted(values, key=values.__getitem__)):
    largest = max(largest, (len(values) - tested) * values[name])
    adjusted[name] = min(1.0, largest)
  return adjusted


def _adjusted(found: Mapping[str, Difference]) -> dict[str, float]:
  return holm({n: v.p for n, v in found.items() if v.p is not None})


def columns(
  found: Mapping[str, Difference], scale: float = 1.0, digits: int = 2
) -> dict[str, dict[str, str]]:
  """Returns the columns of each setting of a table.

  Args:
    found: All differences of the table, by the name of the setting.
    scale: Factor of the differences, for another unit.
    digits: Number of digits after the point.
  """
  adjusted = _adjusted(found)
  rows = {}
  for name, value in found.items():
    numbers = (value.mean, *(value.interval or ()))
    texts = [f'{scale * number:+.{digits}f}' for number in numbers]
    if name in adjusted:
      texts.append(f'{adjusted[name]:.2g}')
    rows[name] = EMPTY | dict(zip(COLUMNS, texts, strict=False))
  return rows


def draw(
  group: Measured, baselines: Mapping[str, str], title: str
) -> Figure | None:
  """Draws the difference of each setting, with one panel per optimizer.

  Args:
    group: Measurements.
    baselines: Setting to its baseline.
    title: Title of the figure.

  Returns:
    The figure; None if no setting has an interval. A point is a mean, filled if
    its adjusted p-value is below `_SIGNIFICANT`, and its bar the 95 % interval.
  """
  cells = {name: cell for name, _, cell in group}
  found = differences(cells, baselines)
  ends = {name: v.interval for name, v in found.items() if v.interval}
  adjusted = _adjusted(found)
  if not ends:
    return None
  rows = [entry for entry in group if entry[0] in ends]
  rows.sort(key=lambda entry: found[entry[0]].mean, reverse=True)
  panels = group_by_optimizer(rows)
  counts = [len(panel) for panel in panels.values()]
  figure = Figure(figsize=(6.0, 0.24 * sum(counts) + 0.6 * len(panels) + 0.7))
  axes = figure.subplots(
    len(panels), 1, squeeze=False, sharex=True, height_ratios=counts
  )[:, 0]
  for axis, (optimizer, panel) in zip(axes, panels.items(), strict=True):
    for row, (name, config, _) in enumerate(panel):
      mean, (low, high) = found[name].mean, ends[name]
      declared = ESTIMATORS[config.estimator]
      axis.errorbar(
        mean,
        row,
        xerr=[[mean - low], [high - mean]],
        color=declared.colour,
        marker=declared.marker,
        markersize=5,
        markerfacecolor=(
          declared.colour if adjusted[name] < _SIGNIFICANT else 'white'
        ),
      )
    names = [
      f'{name.removeprefix(f"{optimizer}-")}, {found[name].seeds} seeds'
      for name, _, _ in panel
    ]
    axis.set_yticks(range(len(panel)), names, fontsize=7)
    axis.set_ylim(len(panel) - 0.5, -0.5)
    axis.axvline(0, color=ESTIMATORS['ste'].colour, linewidth=0.8)
    axis.set_title(optimizer)
  sizes = [abs(found[name].mean) for name in ends]
  linear = _LINEAR_UP_TO * statistics.median(sizes)
  compared = join_distinct(
    {
      baselines[name].removeprefix(f'{optimizer}-')
      for optimizer, panel in panels.items()
      for name, _, _ in panel
    }
  )
  label = f'difference from {compared}, percentage points'
  # One long difference would hide all others.
  if max(sizes) > 2 * linear > 0:
    axes[-1].set_xscale('symlog', linthresh=linear, linscale=2)
    longest = max(abs(end) for both in ends.values() for end in both)
    axes[-1].xaxis.set_major_locator(FixedLocator(_ticks(linear, longest)))
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes[-1].tick_params(axis='x', labelsize=7)
    label += f' (logarithmic beyond {linear:.1f})'
  axes[-1].set_xlabel(label)
  figure.suptitle(title)
  return figure


def _ticks(linear: float, longest: float) -> list[float]:
  """Returns 0 and ±1, 2, 5, 10, …, from a part of `linear` to `longest`."""
  first = math.floor(math.log10(linear)) - 1
  last = math.ceil(math.log10(longest))
  sizes = [m * 10.0**k for k in range(first, last) for m in (1, 2, 5)]
  shown = [size for size in sizes if linear / 5 <= size <= longest]
  return [*(-size for size in reversed(shown)), 0.0, *shown]
