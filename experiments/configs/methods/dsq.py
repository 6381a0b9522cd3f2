"""DSQ: differentiable soft quantization.

  python -m experiments.cifar \
    --config=experiments/configs/methods/dsq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers except the first and the last are binary. The rates are ours.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'dorefa',
  'DSQ',
  estimator='dsq',
  changes='forward as DoReFa; backward a tanh per cell, α trained',
  published='ResNet20 90.2 (r)',
  status='rates are ours; no trained range of the weights',
  rule={'learning_rate': 0.0001},
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=0.0001,
  learning_rate=0.01,
  epochs=100,
)
