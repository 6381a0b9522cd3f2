"""ApproxSign weights: the slope of Bi-Real Net, for weights.

  python -m experiments.cifar \
    --config=experiments/configs/methods/approx_sign.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Bi-Real Net uses this slope for activations (bi_real.py); larq offers it for
weights. The rates are ours.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'libra',
  'ApproxSign weights',
  estimator='approx_sign',
  changes='forward as IR-Net; backward max(0, 2 − 2|x|)',
  status='larq has no recipe for ResNet20; rates are ours',
  per_channel=True,
  float_layers='(stem|head)/kernel',
  optimizer='adam',
  learning_rate=0.001,
  epochs=100,
)
