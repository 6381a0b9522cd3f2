"""ResNet20 at 1 bit in every layer, from a trained network: our best recipe.

  python -m experiments.cifar --config=experiments/configs/best_1bit.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors \
    --config.epochs=10

Any number of epochs is complete, because α ends at 0. The loss compares with
the soft labels of the trained network. experiments/studies/best_1bit.py
compares this recipe with the released protocol.
"""

import functools

from experiments.configs import resnet20

get_config = functools.partial(
  resnet20.get_config,
  quantizer='dorefa',
  estimator='ste',
  optimizer='adam',
  learning_rate=3e-3,
  schedule='cosine',
  distill=0.9,
  epochs=10,
  last_epochs=1,
)
