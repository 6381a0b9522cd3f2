"""MetaQuant's Table 1, and figures 3 and 5 to 10: CIFAR-10 at 1 bit.

  python -m experiments.study --study=experiments/studies/table1.py \
    --workdir=runs/table1 --pretrained=FOLDER

`FOLDER` holds the authors' networks, such as
MetaQuant-ResNet20-CIFAR10.safetensors.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from experiments.study import Study, both_protocols

ESTIMATORS = {
  'dorefa': ('ste', 'multi_fc', 'lstm_fc', 'fc_grad'),
  'bwn': ('ste', 'lstm_fc', 'fc_grad'),
}
FIGURES = {
  'resnet20-dorefa': 'figures 3 and 5',
  'resnet20-bwn': 'figure 6',
  'resnet32-dorefa': 'figure 7',
  'resnet32-bwn': 'figure 8',
  'resnet44-dorefa': 'figure 9',
  'resnet44-bwn': 'figure 10',
}


def get_study() -> Study:
  """Returns the grid: three networks, two quantizers, SGD and Adam."""
  return main_table('Table 1', 'cifar10', FIGURES)


def main_table(
  title: str,
  dataset: str,
  figures: Mapping[str, str],
  baseline_changes: Mapping[str, Any] = MappingProxyType({}),
) -> Study:
  """Returns the grid that the two main tables of the paper share.

  Args:
    title: Name of the table.
    dataset: Dataset of all settings.
    figures: Figures of the paper, by network and quantizer.
    baseline_changes: Keys of the straight-through baselines in the protocol
      'paper'.
  """
  settings: dict[str, ConfigDict] = {}
  for name in figures:
    network, quantizer = name.split('-')
    for optimizer in ('sgd', 'adam'):
      for estimator in ESTIMATORS[quantizer]:
        settings |= both_protocols(
          f'{name}-{optimizer}-{estimator}',
          baseline_changes if estimator == 'ste' else {},
          network=network,
          dataset=dataset,
          quantizer=quantizer,
          estimator=estimator,
          optimizer=optimizer,
        )
  return Study(
    f'{title}: {dataset}, 1 bit in all layers',
    settings,
    published='tables_1_and_2',
    paper_figures=figures,
  )
