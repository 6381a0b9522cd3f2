"""ReSTE: rectified straight-through rule.

  python -m experiments.cifar \
    --config=experiments/configs/methods/reste.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers except the first and the last are binary. The authors train from
random weights with a cosine; here α falls in three steps.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bwn',
  'ReSTE',
  estimator='reste',
  changes='forward as BWN; backward the slope of |x|^(1/o), o from 1 to 3',
  published='ResNet20 91.32',
  status='three steps of α instead of a cosine; starts from a trained network',
  clip=0.0,
  float_layers='(stem|head)/kernel',
  batch_size=256,
  optimizer='momentum',
  weight_decay=0.0001,
  learning_rate=0.1,
  decay_at='500 750 900',
  epochs=1000,
)
