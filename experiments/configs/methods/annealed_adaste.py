"""AdaSTE with a growing β, as in the last version of the authors' code.

  python -m experiments.cifar \
    --config=experiments/configs/methods/annealed_adaste.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers are binary. β rises in the first 11 % of the run, as in the authors'
500 epochs, and the weights of each layer start at a mean size of 2; the authors
draw ±10. The rates are ours: 0.001 was the best of three on held-out images.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'annealed_adaste',
  'AdaSTE, growing β',
  changes='forward a clipped line with a growing jump at 0; backward 0 away'
  ' from the threshold, at most ½ towards it',
  published='ResNet-18 94 (r)',
  status='rates and start are ours; signs replace the weights after training',
  optimizer='adam',
  learning_rate=0.001,
  weight_decay=0.0001,
  epochs=100,
)
