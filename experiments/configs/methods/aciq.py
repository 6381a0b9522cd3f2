"""ACIQ after training: clips of least error under a prior, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/aciq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

ACIQ needs neither training nor data. --config.per_channel=False gives one clip
per layer.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'aciq',
  'ACIQ, 4 bits, after training',
  changes='one grid per filter, clipped for least error under a prior;'
  ' bias correction',
  published='ResNet-50, ImageNet, 4/4: 73.33',
  status='no allocation of bits',
  bits=4,
  per_channel=True,
  epochs=0,
)
