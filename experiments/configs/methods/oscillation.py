"""Oscillation freezing: weights whose codes oscillate are frozen.

  python -m experiments.cifar \
    --config=experiments/configs/methods/oscillation.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Weights are binary as in BWN. The published recipes are for MobileNets of 3 and
4 bits.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'oscillation',
  'Oscillation freezing',
  changes='forward as BWN; post_update freezes oscillating weights',
  status='published for MobileNets of 3 and 4 bits; rates are ours',
  optimizer='adam',
  learning_rate=0.001,
  epochs=100,
)
