"""LSQ: trained step sizes of weights of 2 bits, all layers.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lsq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

As lsq_w2a2.py, activations in full precision.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'lsq',
    bits=2,
    optimizer='momentum',
    weight_decay=2.5e-5,
    learning_rate=1e-2,
    epochs=90,
  )
