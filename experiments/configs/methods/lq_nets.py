"""LQ-Nets: learned levels, 2 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lq_nets.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The first and the last layer keep full precision. The recipe is that of the
authors for VGG-Small.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lq_nets',
  'LQ-Nets, 2 bits',
  changes='forward levels learned per filter (QEM); backward g_hat',
  published='ResNet20 91.8 (r)',
  status='recipe of VGG-Small',
  bits=2,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=5e-4,
  learning_rate=0.02,
  decay_at='80 160 300',
  batch_size=100,
  epochs=400,
)
