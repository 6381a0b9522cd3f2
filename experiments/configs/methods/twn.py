"""TWN: ternary weights.

  python -m experiments.cifar \
    --config=experiments/configs/methods/twn.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

SGD with momentum, 0.1, divided by ten at 80 and 120 of 160 epochs; recalled,
not read again.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'twn',
    optimizer='momentum',
    weight_decay=1e-4,
    learning_rate=0.1,
    decay_at='80 120',
    epochs=160,
  )
