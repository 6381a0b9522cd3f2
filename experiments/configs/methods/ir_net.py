"""IR-Net: Libra and EDE.

  python -m experiments.cifar \
    --config=experiments/configs/methods/ir_net.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers except the first and the last are binary, each filter balanced and
standardized. The authors train from random weights with a cosine; here α falls
in three steps.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'libra',
  'IR-Net',
  estimator='ede',
  changes='forward 2^s·sign of standardized filters; backward EDE',
  published='ResNet20 90.8',
  status='three steps of α instead of a cosine; starts from a trained network',
  per_channel=True,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=0.0001,
  learning_rate=0.1,
  decay_at='200 300 375',
  epochs=400,
)
