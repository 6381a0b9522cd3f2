"""LQ-Nets: learned levels, 2 bits, on VGG-Small.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lq_nets_vgg.py

From random weights. Activations of 2 bits are LSQ's: the authors learn their
levels as they do those of the weights.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'lq_nets',
    network='vgg_small',
    pretrain_epochs=0,
    bits=2,
    activations='lsq',
    activation_bits=2,
    full_precision='(conv1|head)/kernel',
    optimizer='momentum',
    weight_decay=5e-4,
    learning_rate=0.02,
    decay_at='80 160 300',
    batch_size=100,
    epochs=400,
  )
