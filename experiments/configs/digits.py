"""ResNet20 on scikit-learn's handwritten digits: no download, a few minutes.

python -m experiments.cifar --config=experiments/configs/digits.py
"""

from ml_collections import ConfigDict

from experiments.configs import resnet20


def get_config() -> ConfigDict:
  """The configuration of ResNet20, shrunk."""
  config = resnet20.get_config()
  config.dataset = 'digits'
  config.pretrain_epochs = 6
  config.epochs = 6
  config.batch_size = 64
  config.optimizer = 'adam'
  return config
