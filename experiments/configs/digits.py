"""ResNet20 on scikit-learn's handwritten digits: no download, a few minutes.

python -m experiments.cifar --config=experiments/configs/digits.py
"""

import functools

from experiments.configs import resnet20

get_config = functools.partial(
  resnet20.get_config,
  dataset='digits',
  pretrain_epochs=6,
  epochs=6,
  batch_size=64,
  optimizer='adam',
)
