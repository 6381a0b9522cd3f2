"""ResNet18 on ImageNet at 1 bit: the protocol of MetaQuant's Table 3.

  python -m experiments.imagenet --config=experiments/configs/resnet18.py \
    --config.data_dir=FOLDER --config.pretrained=resnet18.safetensors

α and γ are divided by 10 at epochs 10 and 20 of 30, every layer is quantized,
and the result is the mean of the last five epochs. The weights of torchvision
are the base model of the paper.
"""

import functools

from experiments.configs import resnet20

get_config = functools.partial(
  resnet20.get_config,
  network='resnet18',
  dataset='imagenet',
  optimizer='adam',
  learning_rate=1e-4,
  decay_every=10,
  meta_decay_every=10,
  epochs=30,
  last_epochs=5,
  pretrain_epochs=90,
)
