"""After training: ACIQ, clips that are best for a prior, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/aciq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

No training and no data. A clip a layer: --config.per_channel=False.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe('aciq', bits=4, per_channel=True, epochs=0)
