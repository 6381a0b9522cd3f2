"""The outcome of a complete run, read from its folder."""

import math
import pathlib
import statistics
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.data.datasets import DATASETS
from experiments.records import run_log, workdir
from experiments.records.entry import check_complete


class Result(NamedTuple):
  """The outcome of a run.

  Attributes:
    base_accuracy: Test accuracy in percent of the weights in the base model
      that the run started from. If it started from random weights, with a
      random last layer, or from a network with quantized activations, it is
      the last accuracy of a run in full precision, and
      None for quantized weights.
    last_accuracy: Mean test accuracy of the last epochs (`config.last_epochs`),
      percent.
    last_top5_accuracy: The same of the top-5 accuracy; None if the data set has
      few classes.
    last_epochs: Number of these epochs.
    best_accuracy: Best test accuracy of an epoch, percent.
    seconds_per_epoch: Mean over the epochs.
    model_path: File with the quantized parameters and batch statistics of the
      first trial. The files of the other trials are in the same folder.
    bits: Mean test loss of the last epochs in bits, and what they are bits per;
      None if the data set declares no symbol.
    records: One dict per epoch, as in metrics.jsonl. If there are several
      trials, the numbers are means, and 'trials' has the records of each.
    trial_accuracies: `last_accuracy` of each trial.
  """

  base_accuracy: float | None
  last_accuracy: float
  last_top5_accuracy: float | None
  last_epochs: int
  best_accuracy: float
  seconds_per_epoch: float
  model_path: pathlib.Path
  bits: tuple[float, str] | None
  records: list[dict[str, Any]]
  trial_accuracies: list[float]


def read_result(config: ConfigDict, folder: pathlib.Path) -> Result:
  """Reads the result of a complete run."""
  log_path = folder / workdir.LOG
  header, records = run_log.read_log(log_path)
  check_complete(log_path, header, records)
  accuracies = [record['test_accuracy'] for record in records]
  last = run_log.last_epochs(records, config.last_epochs)
  by_epoch = [
    [trial['test_accuracy'] for trial in record.get('trials', [record])]
    for record in last
  ]
  top5 = [r['test_top5_accuracy'] for r in last if 'test_top5_accuracy' in r]
  symbol = DATASETS[config.dataset].symbol
  final_accuracy = accuracies[-1] if config.quantizer == 'none' else None
  return Result(
    base_accuracy=header['start'].get('base_accuracy', final_accuracy),
    last_accuracy=statistics.fmean(r['test_accuracy'] for r in last),
    last_top5_accuracy=statistics.fmean(top5) if top5 else None,
    last_epochs=len(last),
    best_accuracy=max(accuracies),
    seconds_per_epoch=statistics.fmean(r['seconds'] for r in records),
    model_path=workdir.model_path(folder, config),
    bits=(
      statistics.fmean(r['test_loss'] for r in last) / math.log(2),
      symbol,
    )
    if symbol
    else None,
    records=records,
    trial_accuracies=[
      statistics.fmean(trial) for trial in zip(*by_epoch, strict=True)
    ],
  )
