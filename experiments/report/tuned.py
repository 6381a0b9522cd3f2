"""Bits per symbol of each rule at its own best step size."""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.build.estimators import ESTIMATORS
from experiments.common.markdown import Table
from experiments.data.datasets import DATASETS
from experiments.records import ledger
from experiments.report import comparison, paired
from experiments.report.tables import join_distinct, make_table
from experiments.study.spec import Study

_LOSS = 'test_loss'
_BASELINE = 'ste'


class Tuned(NamedTuple):
  """The best step size of one quantizer and one backward rule.

  Attributes:
    forward: Quantizer, as the names of the settings have it.
    backward: Backward rule; '' for full precision.
    estimator: Estimator of the configuration.
    rate: The step size with the lowest test loss, in the mean over the seeds
      that all step sizes of the rule have.
    rates: Number of step sizes that were tried.
    cell: Measurements at this step size.
  """

  forward: str
  backward: str
  estimator: str
  rate: float
  rates: int
  cell: comparison.Cell


def best(study: Study, runs: Sequence[ledger.Run]) -> list[Tuned]:
  """Returns the best step size of each rule that was run.

  Step sizes whose runs have other data, or another base model, than most step
  sizes of their rule do not count.

  Args:
    study: Study whose settings are called 'FORWARD-BACKWARD-RATE', or
      'FORWARD-RATE' in full precision.
    runs: Runs of the ledger.
  """
  tried: dict[str, list[Tuned]] = {}
  for name, config in study.settings.items():
    cell = comparison.cell(config, runs)
    if not cell or cell.epochs != config.epochs:
      continue
    rate = config.learning_rate
    group = name.removesuffix(f'-{rate:g}')
    forward, _, backward = group.partition('-')
    row = Tuned(forward, backward, config.estimator, rate, 0, cell)
    tried.setdefault(group, []).append(row)
  return [
    lowest._replace(rates=len(rows))
    for rows in map(_comparable, tried.values())
    if (lowest := _lowest(rows))
  ]


def _comparable(rows: Sequence[Tuned]) -> list[Tuned]:
  """Returns the largest group of rows with the same data and base model.

  A row of an older log, which does not name them, belongs to the others only if
  these agree.
  """
  cells = [row.cell for row in rows]
  if all(
    paired.are_comparable(one, other)
    for one, other in itertools.combinations(cells, 2)
  ):
    return list(rows)
  groups: dict[Any, list[Tuned]] = {}
  for row in rows:
    base = row.cell.base or row.cell.base_accuracy
    groups.setdefault((row.cell.data, base), []).append(row)
  return max(
    groups.values(), key=lambda group: (len(group), group[0].cell.data)
  )


def _lowest(rows: Sequence[Tuned]) -> Tuned | None:
  """Returns the row with the lowest mean test loss over the common seeds.

  The function ignores each row at which a seed diverged. It returns None if
  the other rows have no common seed.
  """
  stable = [row for row in rows if not row.cell.diverged]
  if not stable:
    return None
  common = set.intersection(*(set(row.cell.records) for row in stable))
  if not common:
    return None

  def loss(row: Tuned) -> float:
    records = {seed: row.cell.records[seed] for seed in common}
    return statistics.fmean(comparison.bits(row.cell._replace(records=records)))

  return min(stable, key=loss)


def unit_of(configs: Iterable[ConfigDict]) -> str:
  """Returns the unit of the test loss, such as 'bits per byte'."""
  symbols = {DATASETS[config.dataset].symbol for config in configs}
  return f'bits per {join_distinct(symbols)}'


def tuned_table(name: str, study: Study, runs: Sequence[ledger.Run]) -> Table:
  """Returns one row per rule, with its difference from straight-through."""
  found = best(study, runs)
  baselines = {row.forward: row for row in found if row.backward == _BASELINE}
  differences = {
    _name(row): value
    for row in found
    if row.backward not in ('', _BASELINE)
    and (baseline := baselines.get(row.forward))
    and (value := paired.difference(row.cell, baseline.cell, _LOSS))
  }
  per_nat = comparison.to_bits(1)
  compared = paired.columns(differences, scale=per_nat, digits=4)
  unit = unit_of(study.settings.values())
  rows = [
    _row(row, unit) | compared.get(_name(row), paired.EMPTY) for row in found
  ]
  note = (
    'Test loss at the best of the tried step sizes α. The test text chose α,'
    ' for every rule in the same way, and never an α at which a seed diverged.'
    ' The baseline is the straight-through rule at its own best α.'
    + paired.NOTE
  )
  return make_table(f'{name}_tuned', f'{study.title}, tuned', rows, note)


def _name(row: Tuned) -> str:
  return f'{row.forward}-{row.backward}'


def _row(row: Tuned, unit: str) -> dict[str, str]:
  values = comparison.bits(row.cell)
  return {
    'weights': row.forward,
    'backward': row.backward,
    'α': f'{row.rate:g}',
    'tried': str(row.rates),
    unit: f'{statistics.fmean(values):.4f}',
    'std': f'{statistics.stdev(values):.4f}' if len(values) > 1 else '',
    'trials': str(len(values)),
    'epochs': str(row.cell.epochs),
  }


def draw(study: Study, found: Sequence[Tuned]) -> Figure:
  """Draws the bits per symbol over the quantizers.

  Args:
    study: The study.
    found: Result of `best`.

  Returns:
    The figure, with one mark per backward rule, and full precision as a
    horizontal line. A point is a mean over trials, and its bar the standard
    deviation.
  """
  figure = Figure(figsize=(5.4, 3.6))
  axis = figure.subplots()
  forwards = list(dict.fromkeys(row.forward for row in found if row.backward))
  rules = list(dict.fromkeys(row.backward for row in found if row.backward))
  for index, rule in enumerate(rules):
    rows = [row for row in found if row.backward == rule]
    values = [comparison.bits(row.cell) for row in rows]
    declared = ESTIMATORS[rows[0].estimator]
    # Points beside each other, so that their bars can be told apart.
    shift = 0.08 * (index - (len(rules) - 1) / 2)
    axis.errorbar(
      [forwards.index(row.forward) + shift for row in rows],
      [statistics.fmean(v) for v in values],
      yerr=[statistics.stdev(v) if len(v) > 1 else 0 for v in values],
      color=declared.colour,
      marker=declared.marker,
      markersize=5,
      # No line: the quantizers differ in more than their bits.
      linestyle='none',
      elinewidth=1,
      label=rule,
    )
  for row in found:
    if not row.backward:
      mean = statistics.fmean(comparison.bits(row.cell))
      axis.axhline(mean, color='0.4', linestyle='--', label='full precision')
  quantizers = {
    name.partition('-')[0]: config.quantizer
    for name, config in study.settings.items()
  }
  labels = [f'{name}\n{quantizers[name]}' for name in forwards]
  axis.set_xticks(range(len(forwards)), labels)
  axis.set_xlabel('weights')
  axis.set_ylabel(
    f'test loss (lower is better), {unit_of(study.settings.values())}'
  )
  axis.legend(fontsize=7)
  figure.suptitle(study.title)
  return figure
