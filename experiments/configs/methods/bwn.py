"""BWN: binary weights with a scale per filter, all layers.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bwn.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

XNOR-Net's weights; MetaQuant's own form has one scale a layer
(--config.per_channel=False). Momentum and its rate are ours.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'bwn',
    per_channel=True,
    optimizer='momentum',
    learning_rate=1e-2,
    epochs=100,
  )
