"""StableQAT: a smooth slope of rounding.

  python -m experiments.cifar \
    --config=experiments/configs/methods/stableqat.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The grid is that of lsq.py with its rates; the published recipes are for
language models.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lsq',
  'StableQAT, 2 bits',
  estimator='stableqat',
  changes='forward a grid with a trained step; backward small at a'
  ' level, 1 at a threshold',
  status='the published recipes are for language models',
  bits=2,
  optimizer='momentum',
  weight_decay=2.5e-05,
  learning_rate=0.01,
  epochs=90,
)
