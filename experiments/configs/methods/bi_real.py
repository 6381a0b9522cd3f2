"""Bi-Real: binary weights and activations, W/A 1/1.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bi_real.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

The parabola's gradient for activations, a scale per filter, shortcuts that
carry real numbers around each block (the authors: around each convolution), and
1x1 convolutions of full precision in them, which still get binary inputs. SGD,
0.01, divided by ten at 10 and 15 of 20 epochs.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'bwn',
    per_channel=True,
    scaled_gradient=False,
    activation_quantizer='bi_real',
    float_layers='(stem|head|.*/shortcut)/kernel',
    optimizer='momentum',
    learning_rate=1e-2,
    decay_at='10 15',
    epochs=20,
  )
