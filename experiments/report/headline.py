"""The table of the README: what was reached, in ten rows."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.common.markdown import Table
from experiments.data.datasets import DATASETS
from experiments.records import ledger
from experiments.report import comparison, tuned
from experiments.report.tables import make_table
from experiments.study.spec import Study


class Line(NamedTuple):
  """A row of the table.

  Attributes:
    network: Network and data set, for readers.
    study: Name of a study.
    setting: Name of one of its settings. For a study of tuned rules, without
      the step size.
    weights: Precision of the weights.
    how: How they were trained.
    full: Setting of the same study in full precision; '' for the base model of
      the run.
  """

  network: str
  study: str
  setting: str
  weights: str
  how: str
  full: str = ''


_CIFAR = 'ResNet20, CIFAR-10'
_PHOTOS = 'ten classes of ImageNet'
_TEXT = 'transformer, Shakespeare'
LINES = (
  Line(
    _CIFAR, 'small_files', 'resnet20-1bit', '1 bit', '`configs/best_1bit.py`'
  ),
  Line(
    _CIFAR,
    'table1',
    'resnet20-dorefa-sgd-multi_fc',
    '1 bit',
    'MetaQuant, MultiFC, SGD with the step size of the paper',
  ),
  Line(
    _CIFAR,
    'table1',
    'resnet20-dorefa-sgd-ste',
    '1 bit',
    'straight-through, SGD with the step size of the paper',
  ),
  Line(
    _CIFAR,
    'fair',
    'sgd-swish_sign',
    '1 bit',
    'SwishSign, SGD with its best step size',
  ),
  Line(
    _CIFAR, 'methods', 'stableqat', '2 bits', '`configs/methods/stableqat.py`'
  ),
  Line(
    _CIFAR,
    'methods',
    'aciq',
    '4 bits',
    'not trained: `configs/methods/aciq.py`',
  ),
  Line(
    f'ResNet18, {_PHOTOS}',
    'imagenette_small',
    'resnet18-1bit-ste-3e-4',
    '1 bit',
    'straight-through, Adam',
  ),
  Line(
    f'MobileNetV2, {_PHOTOS}',
    'imagenette_small',
    'mobilenet_v2-4bit-ste-1e-4',
    '4 bits',
    'straight-through, Adam',
  ),
  Line(
    _TEXT,
    'language',
    '1bit-ste',
    '1 bit',
    'straight-through, Adam',
    'full',
  ),
  Line(
    _TEXT,
    'language',
    'ternary-ste',
    'ternary',
    'straight-through, Adam',
    'full',
  ),
)


def headline_table(
  studies: Mapping[str, Study], runs: Sequence[ledger.Run]
) -> Table:
  """Returns one row per line of `LINES` that was run."""
  rows = [
    row
    for line in LINES
    if line.study in studies
    and (row := _row(line, studies[line.study], runs)) is not None
  ]
  note = (
    'All layers are quantized, except the embedding and the head of the'
    ' language models. ± is the standard deviation over trials. Held-out'
    ' training images chose the best step size on CIFAR-10, and the test set'
    ' itself chose those of photographs and text.'
  )
  return make_table('headline', 'What was reached', rows, note)


def _row(
  line: Line, study: Study, runs: Sequence[ledger.Run]
) -> dict[str, str] | None:
  cells = _cells(study, runs, line)
  cell, full = cells.get(line.setting), cells.get(line.full)
  if cell is None or not cell.records:
    return None
  symbol = DATASETS[next(iter(study.settings.values())).dataset].symbol
  base = cell.base_accuracy
  compared = '' if base is None else f'{base:.2f} %'
  return {
    'network': line.network,
    'weights': line.weights,
    'trained by': line.how,
    'epochs': str(cell.epochs),
    'trials': _trials(cell),
    'test': _text(cell, symbol),
    'full precision': _text(full, symbol) if full else compared,
  }


def _trials(cell: comparison.Cell) -> str:
  """Returns the number of trials, and how many diverged."""
  count = f'{len(cell.records)}'
  return f'{count}, {len(cell.diverged)} diverged' if cell.diverged else count


def _cells(
  study: Study, runs: Sequence[ledger.Run], line: Line
) -> dict[str, comparison.Cell | None]:
  """Returns the measurements that a line names, by its names."""
  if study.tuned:
    return {
      f'{row.forward}-{row.backward}'.rstrip('-'): row.cell
      for row in tuned.best(study, runs)
    }
  config = study.settings[line.setting]
  return {line.setting: comparison.cell(config, runs)}


def _text(cell: comparison.Cell, symbol: str) -> str:
  """Returns the accuracy, or bits per symbol, with its deviation."""
  if symbol:
    values, digits, unit = comparison.bits(cell), 3, f'bits per {symbol}'
  else:
    values, digits, unit = comparison.accuracies(cell), 2, '%'
  spread = (
    f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
  )
  return f'{statistics.fmean(values):.{digits}f}{spread} {unit}'
