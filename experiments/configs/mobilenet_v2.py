"""MobileNetV2 on ImageNet at 4 bits: a row of MetaQuant's author response.

  python -m experiments.imagenet --config=experiments/configs/mobilenet_v2.py \
    --config.data_dir=FOLDER --config.pretrained=mobilenet_v2.safetensors

The author response gives no protocol, so this is the protocol of ResNet18.
"""

import functools

from experiments.configs import resnet18

get_config = functools.partial(
  resnet18.get_config, network='mobilenet_v2', bits=4
)
