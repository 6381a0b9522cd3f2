"""ResNet56 on CIFAR-100 at 1 bit: the protocol of MetaQuant's Table 2.

python -m experiments.cifar --config=experiments/configs/resnet56.py
"""

from ml_collections import ConfigDict

from experiments.configs import resnet20


def get_config() -> ConfigDict:
  """The configuration of ResNet20 with another network and dataset."""
  config = resnet20.get_config()
  config.network = 'resnet56'
  config.dataset = 'cifar100'
  return config
