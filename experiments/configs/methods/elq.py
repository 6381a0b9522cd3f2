"""ELQ, a reconstruction: ternary weights, by portions.

  python -m experiments.cifar \
    --config=experiments/configs/methods/elq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

The paper's text was not at hand: portions are INQ's at 2 bits, the weights of
both penalties ours. Weights go to the nearest of TWN's first levels.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'elq',
    optimizer='momentum',
    weight_decay=5e-4,
    learning_rate=1e-2,
    decay_every=0,
    epochs=100,
  )
