"""SLB: W/A 1/1 on VGG-Small.

  python -m experiments.cifar \
    --config=experiments/configs/methods/slb_vgg.py

As slb.py, with the repository's rate, decay and window for VGG-Small.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'slb',
    network='vgg_small',
    pretrain_epochs=0,
    method={'window': '0.3 0.9'},
    recalibrate=20,
    activation_quantizer='sign',
    float_layers='(conv1|head)/kernel',
    optimizer='momentum',
    weight_decay=5e-4,
    learning_rate=0.02,
    decay_at='80 160 300',
    batch_size=100,
    epochs=400,
  )
