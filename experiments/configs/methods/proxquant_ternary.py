"""ProxQuant: ternary weights by a proximal step.

  python -m experiments.cifar \
    --config=experiments/configs/methods/proxquant_ternary.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The recipe differs from proxquant.py in three respects: the first and the last
layer keep full precision, weights are frozen at epoch 400 of 600, and the pull
is by the squared distance.
"""

import functools

from experiments.configs.recipe import About, recipe

ABOUT = About(
  'ProxQuant, ternary',
  changes='forward W;'
  ' post_update: growing pull towards ternary levels, then freeze',
  published='ResNet20 91.60 (r)',
)


get_config = functools.partial(
  recipe,
  'proxquant',
  method={'levels': 'ternary', 'prox': 'l2', 'pull': 31.3},
  float_layers='(stem|head|.*/shortcut)/kernel',
  optimizer='adam',
  learning_rate=1e-2,
  decay_every=0,
  epochs=600,
)
