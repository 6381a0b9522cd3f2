"""LQ-Nets: learned levels, 2 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lq_nets.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

First and last layer in full precision. The recipe is the authors' for
VGG-Small.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'lq_nets',
    bits=2,
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    weight_decay=5e-4,
    learning_rate=0.02,
    decay_at='80 160 300',
    batch_size=100,
    epochs=400,
  )
