"""XNOR-Net: binary weights and activations, W/A 1/1.

  python -m experiments.cifar \
    --config=experiments/configs/methods/xnor.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Weights have one scale per filter, and activations no scale per pixel, as in the
authors' later code. Weights are neither centred nor clipped. Momentum and its
learning rate are ours. The first and the last layer keep full precision.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bwn',
  'XNOR-Net, 1/1',
  changes='as BWN; activations ±1, backward within [−1, 1]',
  published='ResNet-18, ImageNet 51.2 (r)',
  status='no scale per pixel, weights not centred; usual order of layers',
  per_channel=True,
  activation_quantizer='sign',
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  learning_rate=1e-2,
  epochs=100,
)
