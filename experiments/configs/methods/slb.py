"""SLB: a softmax over the levels of each weight, 1 bit.

  python -m experiments.cifar \
    --config=experiments/configs/methods/slb.py

The network starts from random weights; the first and the last layer keep full
precision. Learning rate, decay and window are those of the authors' repository
for ResNet20. The inverse temperatures are those of their paper (in the
repository: 500 epochs, one factor per epoch), and the epochs at which the rate
falls are those of LQ-Nets. Batch statistics are recomputed with the levels of
the largest share: State Batch Norm has these two sets of statistics.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'slb',
  'SLB, 1 bit',
  changes='trained: one number per level;'
  ' forward their softmax, increasingly sharp',
  published='ResNet20 90.6',
  status='statistics recomputed per epoch instead of per step; 400 epochs'
  ' instead of 500',
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
