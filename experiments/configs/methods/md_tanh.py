"""MD-tanh: mirror descent with a growing tanh.

  python -m experiments.cifar \
    --config=experiments/configs/methods/md_tanh.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers are binary. β grows exponentially over the run. The rates are
ours.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'md_tanh',
  'MD-tanh',
  changes='forward tanh(βW), β rising; backward g_hat on the dual W',
  status='rates are ours; signs replace the weights after training',
  optimizer='adam',
  learning_rate=0.001,
  epochs=100,
)
