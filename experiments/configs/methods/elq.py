"""ELQ, a reconstruction: ternary weights, by portions.

  python -m experiments.cifar \
    --config=experiments/configs/methods/elq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

We had no access to the text of the paper: the portions are those of INQ at 2
bits, and the factors of both penalties are ours. Each weight takes the nearest
of TWN's initial levels.
"""

import functools

from experiments.configs.recipe import About, recipe

ABOUT = About(
  'ELQ, ternary',
  changes='forward W; refine: two penalties; post_update: portions as in INQ',
  published='ResNet-18, ImageNet, binary: drop 3.55',
  status='a reconstruction',
)


get_config = functools.partial(
  recipe,
  'elq',
  optimizer='momentum',
  weight_decay=5e-4,
  learning_rate=1e-2,
  decay_every=0,
  epochs=100,
)
