"""ResNet56 on CIFAR-100 at 1 bit: the protocol of MetaQuant's Table 2.

python -m experiments.cifar --config=experiments/configs/resnet56.py
"""

import functools

from experiments.configs import resnet20

get_config = functools.partial(
  resnet20.get_config, network='resnet56', dataset='cifar100'
)
