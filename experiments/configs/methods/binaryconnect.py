"""BinaryConnect: weights of ±1, gradients straight through.

  python -m experiments.cifar \
    --config=experiments/configs/methods/binaryconnect.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

The recipe of ProxQuant's repository for it: Adam, and W kept within [-1, 1];
but nothing is frozen after 200 of 300 epochs. Everything is binary but the
shortcuts' convolutions.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'binary',
    float_layers='.*/shortcut/kernel',
    optimizer='adam',
    learning_rate=1e-2,
    decay_at='81 122',
    epochs=300,
  )
