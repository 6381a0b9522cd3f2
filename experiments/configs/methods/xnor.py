"""XNOR-Net: binary weights and activations, W/A 1/1.

  python -m experiments.cifar \
    --config=experiments/configs/methods/xnor.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

A scale per filter, and none per place of the image, which its authors' later
code leaves out too; weights are neither centred nor clipped. Momentum and its
rate are ours. First and last layer in full precision.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'bwn',
    per_channel=True,
    activation_quantizer='sign',
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    learning_rate=1e-2,
    epochs=100,
  )
