"""MetaQuant's Table 1, and figures 3 and 5 to 10: CIFAR-10 at 1 bit.

  python -m experiments.study --study=experiments/studies/table1.py \
    --workdir=runs/table1 --pretrained=FOLDER

`FOLDER` holds the authors' networks, MetaQuant-ResNet20-CIFAR10.pth and so on.
"""

from ml_collections import ConfigDict

from experiments.study import Study, both_protocols

ESTIMATORS = {
  'dorefa': ('ste', 'multi_fc', 'lstm_fc', 'fc_grad'),
  'bwn': ('ste', 'lstm_fc', 'fc_grad'),
}


def get_study() -> Study:
  """Three networks, two quantizers, all estimators, SGD and Adam."""
  return main_table('Table 1', 'cifar10', ('resnet20', 'resnet32', 'resnet44'))


def main_table(title: str, dataset: str, networks: tuple[str, ...]) -> Study:
  """The grid that the paper's two main tables share."""
  settings: dict[str, ConfigDict] = {}
  for network in networks:
    for quantizer, estimators in ESTIMATORS.items():
      for optimizer in ('sgd', 'adam'):
        for estimator in estimators:
          settings |= both_protocols(
            f'{network}-{quantizer}-{optimizer}-{estimator}',
            network=network,
            dataset=dataset,
            quantizer=quantizer,
            estimator=estimator,
            optimizer=optimizer,
          )
  return Study(f'{title}: {dataset}, 1 bit in all layers', settings)
