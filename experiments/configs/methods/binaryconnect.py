"""BinaryConnect: weights of ±1, straight-through gradients.

  python -m experiments.cifar \
    --config=experiments/configs/methods/binaryconnect.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The recipe is that of ProxQuant's repository: Adam, with W clipped to [-1, 1].
Unlike there, the weights are not frozen after 200 of 300 epochs. All layers are
binary except the convolutions of shortcuts.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'binary',
  'BinaryConnect',
  changes='forward sign(W); backward g_hat; post_update: clip to [−1, 1]',
  published='ResNet20 90.46 (r)',
  status='no freezing',
  float_layers='.*/shortcut/kernel',
  optimizer='adam',
  learning_rate=1e-2,
  decay_at='81 122',
  epochs=300,
)
