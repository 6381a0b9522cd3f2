"""BinaryRelax: between W and its binary weights, by degrees.

  python -m experiments.cifar \
    --config=experiments/configs/methods/binary_relax.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

The weight of the binary ones, λ, grows by 1.02 twice an epoch, to 1.02 to the
power of 320, and is infinite in the last fifth; recalled, not read again.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'binary_relax',
    optimizer='momentum',
    weight_decay=1e-4,
    learning_rate=0.1,
    decay_at='80 140',
    epochs=200,
  )
