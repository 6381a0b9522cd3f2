"""PACT: weights and activations of 4 bits, W/A 4/4.

  python -m experiments.cifar \
    --config=experiments/configs/methods/pact_w4a4.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

DoReFa's weights, and a trained clip of the activations, which is decayed as
weights are.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'dorefa',
    bits=4,
    activation_quantizer='pact',
    activation_bits=4,
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    weight_decay=2e-4,
    learning_rate=0.1,
    decay_at='60 120',
    epochs=200,
  )
