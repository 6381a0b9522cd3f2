"""The table of all methods: changes, cost, published and measured accuracy."""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.build.base_model import is_from_scratch
from experiments.common.markdown import Table
from experiments.configs import methods
from experiments.records import ledger
from experiments.report import comparison
from experiments.report.tables import NO_RUN, make_table
from experiments.study import spec

COSTS = 'benchmarks/cpu-methods.json'  # in the folder of the ledger


def read_costs(results: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  """Returns the rows of `benchmarks.methods` by recipe; {} without a result."""
  path = results / COSTS
  if not path.exists():
    return {}
  rows = json.loads(path.read_text(encoding='utf-8'))['rows']
  return {row['method']: row for row in rows}


def method_table(
  study: spec.Study,
  runs: Sequence[ledger.Run],
  costs: Mapping[str, Mapping[str, Any]],
) -> Table:
  """Returns one row per recipe.

  Args:
    study: Study whose settings are named like recipes.
    runs: Runs of the ledger.
    costs: Rows of `read_costs`.
  """
  rows = []
  for name, config in study.settings.items():
    recipe, cost = methods.recipe(name), costs.get(name)
    rows.append(
      {
        'recipe': f'`{name}`',
        'method': recipe.name,
        'changes': recipe.changes,
        'numbers kept per weight': f'{cost["numbers kept per weight"]:.2f}'
        if cost
        else '',
        'step / STE': f'{cost["time / STE"][0]:.2f}' if cost else '',
        'published': recipe.published,
        'measured': _measured(comparison.cell(config, runs), config),
        'status': recipe.status,
      }
    )
  return make_table('methods-overview', study.title, rows)


def _measured(ours: comparison.Cell | None, config: ConfigDict) -> str:
  if ours is None:
    return NO_RUN
  values = comparison.accuracies(ours)
  if not values:
    return 'diverged'
  text = f'{statistics.fmean(values):.2f}'
  if relaxed := comparison.accuracies(ours, 'relaxed_accuracy'):
    text = f'{statistics.fmean(relaxed):.2f} → {text}'
  remarks = []
  if len(values) > 1:
    remarks.append(f'{len(values)} trials')
  if is_from_scratch(config):
    remarks.append('from random weights')
  if config.holdout:
    remarks.append(f'on {config.holdout:,} held-out images')
  return ', '.join([text, *remarks, *comparison.shortfalls(ours, config)])
