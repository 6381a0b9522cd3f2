"""DoReFa: weights and activations of 2 bits, W/A 2/2.

  python -m experiments.cifar \
    --config=experiments/configs/methods/dorefa_w2a2.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

First and last layer in full precision, as in its paper. The learning rate and
the number of epochs are those of PACT's comparison.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'dorefa',
    bits=2,
    activation_quantizer='dorefa',
    activation_bits=2,
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    weight_decay=2e-4,
    learning_rate=0.1,
    decay_at='60 120',
    epochs=200,
  )
