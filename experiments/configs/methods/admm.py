"""ADMM: ternary weights by a dual variable.

  python -m experiments.cifar \
    --config=experiments/configs/methods/admm.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

Neither ρ nor how often the dual variable moves is published. A plain gradient
step takes the place of the authors' extragradient.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'admm',
    optimizer='momentum',
    weight_decay=1e-4,
    learning_rate=1e-2,
    decay_every=0,
    epochs=100,
  )
