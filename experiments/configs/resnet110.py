"""ResNet110 on CIFAR-100 at 1 bit: the protocol of MetaQuant's Table 2.

python -m experiments.cifar --config=experiments/configs/resnet110.py
"""

import functools

from experiments.configs import resnet20

get_config = functools.partial(
  resnet20.get_config, network='resnet110', dataset='cifar100'
)
