"""ProxQuant: binary weights by a proximal step.

  python -m experiments.cifar \
    --config=experiments/configs/methods/proxquant.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Adam has a constant learning rate. The pull grows in proportion to time; after
two thirds of the run all weights are set to ±1 and frozen. All layers are
binary except the convolutions of shortcuts. `pull` is the sum of the strengths
of all steps. The strength of the authors is 0.01 times 1e-4 times the epoch,
until epoch 200 of 300.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'proxquant',
  'ProxQuant, binary',
  changes='forward W; post_update: growing pull towards ±1, then freeze',
  published='ResNet20 90.65 (r)',
  float_layers='.*/shortcut/kernel',
  optimizer='adam',
  learning_rate=1e-2,
  decay_every=0,
  epochs=300,
)
