"""HWGQ: binary weights, activations of 2 bits, W/A 1/2.

  python -m experiments.cifar \
    --config=experiments/configs/methods/hwgq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

The authors' batch norm has no scale and shift; ours has. The rate is ours.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'bwn',
    per_channel=True,
    scaled_gradient=False,
    activation_quantizer='hwgq',
    activation_bits=2,
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    learning_rate=1e-2,
    epochs=100,
  )
