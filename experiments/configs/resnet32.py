"""ResNet32 on CIFAR-10 at 1 bit: the protocol of MetaQuant's Table 1.

  python -m experiments.cifar --config=experiments/configs/resnet32.py \
    --config.pretrained=MetaQuant-ResNet32-CIFAR10.safetensors
"""

from ml_collections import ConfigDict

from experiments.configs import resnet20


def get_config() -> ConfigDict:
  """The configuration of ResNet20 with another network."""
  config = resnet20.get_config()
  config.network = 'resnet32'
  return config
