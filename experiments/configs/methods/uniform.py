"""After training: a uniform grid a layer, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/uniform.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

No training and no data. It is how PSGD's networks are quantized.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe('uniform', bits=4, epochs=0)
