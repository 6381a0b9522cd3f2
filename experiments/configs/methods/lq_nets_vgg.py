"""LQ-Nets: learned levels, 2 bits, on VGG-Small.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lq_nets_vgg.py

The network starts from random weights. Activations of 2 bits are those of LSQ;
the authors learn their levels like those of the weights.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lq_nets',
  'LQ-Nets, 2/2',
  changes='as LQ-Nets',
  published='VGG-Small 93.5',
  status="activations are LSQ's",
  network='vgg_small',
  pretrain_epochs=0,
  bits=2,
  activation_quantizer='lsq',
  activation_bits=2,
  float_layers='(conv1|head)/kernel',
  optimizer='momentum',
  weight_decay=5e-4,
  learning_rate=0.02,
  decay_at='80 160 300',
  batch_size=100,
  epochs=400,
)
