"""AdaSTE: a slope that depends on the sign of the gradient.

  python -m experiments.cifar \
    --config=experiments/configs/methods/adaste.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers are binary. Where a gradient is below 1e-3, as most are here, the
slope is 1, as in the authors' code. The rates are ours; the authors' loss
receives a smooth weight near the level.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bwn',
  'AdaSTE',
  estimator='adaste',
  changes='forward as BWN; backward 0 away from the threshold, at most'
  ' ½ towards it',
  published='ResNet-18 94 (r)',
  status='rates are ours; the loss receives the level itself',
  clip=0.0,
  optimizer='momentum',
  weight_decay=0.0001,
  learning_rate=0.01,
  epochs=100,
)
