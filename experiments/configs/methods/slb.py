"""SLB: a softmax over the levels of each weight, 1 bit.

  python -m experiments.cifar \
    --config=experiments/configs/methods/slb.py

From random weights; first and last layer in full precision. Rate, decay and
window are the authors' repository's for ResNet20; the inverse temperatures are
their paper's (the repository: 500 epochs, a factor an epoch), and when the rate
falls is LQ-Nets'. Batch statistics are taken anew with the weights of the
largest share: two sets of statistics, which is what State Batch Norm keeps.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'slb',
    pretrain_epochs=0,
    method={'window': '0.4 0.9'},
    recalibrate=20,
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    weight_decay=1e-4,
    learning_rate=0.1,
    decay_at='80 160 300',
    epochs=400,
  )
