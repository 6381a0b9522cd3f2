"""ResNet32 on CIFAR-10 at 1 bit: the protocol of MetaQuant's Table 1.

  python -m experiments.cifar --config=experiments/configs/resnet32.py \
    --config.pretrained=MetaQuant-ResNet32-CIFAR10.safetensors
"""

import functools

from experiments.configs import resnet20

get_config = functools.partial(resnet20.get_config, network='resnet32')
