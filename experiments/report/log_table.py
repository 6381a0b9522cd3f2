"""The table of training losses beside those in the authors' logs."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.markdown import Table
from experiments.records import ledger
from experiments.report import comparison
from experiments.report.tables import join_distinct, make_table, without_run
from experiments.studies import as_released


def log_table(runs: Sequence[ledger.Run]) -> Table:
  """Returns the rows of each setting that was run: our losses, then the logs.

  Our losses with the other γ of `as_released` have a row of their own. Our
  columns end where our runs end.
  """
  rows: list[dict[str, str]] = []
  used: set[str] = set()
  entries = comparison.logged()
  missing = 0
  for config, entry in entries:
    logged = entry['raw_loss']
    sources = {'ours': config}
    if config.estimator != 'ste':
      other = as_released.with_other_gamma(config)
      sources[f'ours, γ = {other.meta_learning_rate:g}'] = other
    setting = '-'.join(
      (config.network, config.quantizer, config.optimizer, config.estimator)
    )
    before = len(rows)
    for source, wanted in sources.items():
      ours = comparison.cell(wanted, runs)
      if ours is None or not ours.records:
        continue
      used |= {*ours.names}
      measured = {
        str(number): _spread([r[number - 1] for r in ours.records.values()])
        for number in range(1, ours.epochs + 1)
      }
      count = len(ours.records)
      rows.append(_row(setting, source, count, measured, [*logged]))
    if len(rows) == before:
      missing += 1
    else:
      rows.append(_row(setting, 'logs', entry['raw_trials'], logged, [*logged]))
  devices = {run.header['device']['kind'] for run in runs if run.name in used}
  note = (
    'Mean training loss of the epoch, ± standard deviation over trials. The'
    ' logs of learned rules belong to the order of the released code,'
    f' config.reapply=True.{without_run(missing, len(entries))}'
    + (f' Device {join_distinct(devices)}.' if devices else '')
  )
  return make_table(
    'logs', "Training loss beside the authors' logs", rows, note
  )


def _spread(records: Sequence[Mapping[str, Any]]) -> tuple[float, float | None]:
  losses = [record['train_loss'] for record in records]
  spread = statistics.stdev(losses) if len(losses) > 1 else None
  return statistics.fmean(losses), spread


def _row(
  setting: str,
  source: str,
  trials: int,
  losses: Mapping[str, tuple[float, float | None]],
  epochs: Sequence[str],
) -> dict[str, str]:
  """Returns one row. The cell of an epoch without a loss is empty."""
  row = {'setting': f'`{setting}`', 'source': source, 'trials': str(trials)}
  for epoch in epochs:
    mean, spread = losses.get(epoch, (None, None))
    text = '' if mean is None else f'{mean:.4f}'
    if spread is not None and trials > 1:
      text += f' ± {spread:.4f}'
    row[f'epoch {epoch}'] = text
  return row
