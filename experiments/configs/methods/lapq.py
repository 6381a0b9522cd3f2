"""After training: LAPQ, clips chosen by the loss, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lapq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

The loss is that of 512 training images. First and last layer in full precision,
as in its paper.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe('lapq', bits=4, float_layers='(stem|head)/kernel', epochs=0)
