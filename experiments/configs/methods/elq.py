"""ELQ, a reconstruction: ternary weights, by portions.

  python -m experiments.cifar \
    --config=experiments/configs/methods/elq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

We had no access to the text of the paper: the portions are those of INQ at 2
bits, and the factors of both penalties are ours. Each weight takes the nearest
of TWN's initial levels.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'elq',
  'ELQ, ternary',
  changes='forward W; refine: two penalties; post_update: portions as in INQ',
  published='ResNet-18, ImageNet, binary: drop 3.55',
  status='a reconstruction',
  optimizer='momentum',
  weight_decay=5e-4,
  learning_rate=1e-2,
  decay_every=0,
  epochs=100,
)
