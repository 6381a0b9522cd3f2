"""ReCU: the tails of the weights clamped.

  python -m experiments.cifar \
    --config=experiments/configs/methods/recu.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers except the first and the last are binary. The authors train a scale
per filter and start from random weights, with a cosine.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'recu',
  'ReCU',
  changes='forward mean|W̃|·sign of clamped filters; backward straight-through',
  published='ResNet20 W1A1 87.5',
  status='activations in full precision; mean size per filter; scale not'
  ' trained; three steps of α',
  per_channel=True,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=0.0005,
  learning_rate=0.1,
  decay_at='300 450 540',
  epochs=600,
)
