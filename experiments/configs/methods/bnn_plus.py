"""BNN+: the slope of SwishSign, for weights.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bnn_plus.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The rates are ours; the paper's regularizer is not included.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'libra',
  'BNN+, SwishSign',
  estimator='swish_sign',
  changes='forward as IR-Net; backward the slope of a swish',
  status='without the regularizer; rates are ours',
  per_channel=True,
  float_layers='(stem|head)/kernel',
  optimizer='adam',
  learning_rate=0.001,
  epochs=100,
)
