"""PSGD: weights that can be quantized after training, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/psgd.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

From a trained network, as in the second part of the authors' run: 68 epochs,
0.01, divided by ten after 41, gradients scaled by 150 times the distance to the
grid, which is that of the largest weight now (the authors: a moving average).
Quantized with no data.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'psgd',
    method={'start': 0.0},
    bits=4,
    optimizer='momentum',
    weight_decay=1e-4,
    learning_rate=1e-2,
    decay_at='41',
    epochs=68,
  )
