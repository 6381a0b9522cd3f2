"""Bi-Real: binary weights and activations, W/A 1/1.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bi_real.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Activations have the gradient of a parabola, and weights one scale per filter.
Shortcuts carry real numbers around each block (in the paper: around each
convolution). Their 1x1 convolutions have full precision but receive binary
inputs.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bwn',
  'Bi-Real, 1/1',
  changes='as BWN, slope 1; activations ±1, backward 2 − 2|x|',
  published='ResNet-18, ImageNet 56.4',
  status='shortcuts per block instead of per convolution, with binary inputs;'
  ' no stages',
  per_channel=True,
  scaled_gradient=False,
  activation_quantizer='bi_real',
  float_layers='(stem|head|.*/shortcut)/kernel',
  optimizer='momentum',
  learning_rate=1e-2,
  decay_at='10 15',
  epochs=20,
)
