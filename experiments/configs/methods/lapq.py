"""LAPQ after training: clips chosen by the loss, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lapq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The loss is that of 512 training images. The first and the last layer keep full
precision, as in the paper.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lapq',
  'LAPQ, 4 bits, after training',
  changes='clips by Lp norms, then jointly by the loss of 512 images',
  published='ResNet-18, ImageNet, 4/4: 60.3',
  status='weights only',
  bits=4,
  float_layers='(stem|head)/kernel',
  epochs=0,
)
