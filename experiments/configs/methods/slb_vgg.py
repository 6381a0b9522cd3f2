"""SLB: a softmax over the levels of each weight, W/A 1/1, on VGG-Small.

  python -m experiments.cifar \
    --config=experiments/configs/methods/slb_vgg.py

The recipe is that of slb.py, with the learning rate, decay and window of the
repository for VGG-Small.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'slb',
  'SLB, 1/1',
  changes='as SLB',
  published='VGG-Small 92.0',
  status='as SLB',
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
