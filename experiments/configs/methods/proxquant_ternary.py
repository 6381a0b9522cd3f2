"""ProxQuant: ternary weights by a proximal step.

  python -m experiments.cifar \
    --config=experiments/configs/methods/proxquant_ternary.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The recipe differs from proxquant.py in three respects: the first and the last
layer keep full precision, weights are frozen at epoch 400 of 600, and the pull
is by the squared distance.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'proxquant',
  'ProxQuant, ternary',
  changes='forward W;'
  ' post_update: growing pull towards ternary levels, then freeze',
  published='ResNet20 91.60 (r)',
  method={'levels': 'ternary', 'prox': 'l2', 'pull': 31.3},
  float_layers='(stem|head|.*/shortcut)/kernel',
  optimizer='adam',
  learning_rate=1e-2,
  decay_every=0,
  epochs=600,
)
