"""ADMM: ternary weights by a dual variable.

  python -m experiments.cifar \
    --config=experiments/configs/methods/admm.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The authors publish neither ρ nor the steps between two updates of the dual
variable. This recipe uses plain gradient steps in place of their extragradient.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'admm',
  'ADMM, ternary',
  changes='forward W;'
  ' refine: pull towards the projection, with a dual variable',
  published='ResNet-18, ImageNet 67.0 (r)',
  status='plain steps; our ρ and rounds',
  optimizer='momentum',
  weight_decay=1e-4,
  learning_rate=1e-2,
  decay_every=0,
  epochs=100,
)
