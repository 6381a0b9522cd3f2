"""BWN: binary weights with one scale per filter, all layers.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bwn.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

These are the weights of XNOR-Net; MetaQuant's form has one scale per layer
(--config.per_channel=False). Momentum and its learning rate are ours.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bwn',
  'BWN',
  changes='forward α·sign(W), α per filter; backward α·g_hat within [−1, 1]',
  published='ResNet-18, ImageNet 60.8',
  status='our momentum and rate',
  per_channel=True,
  optimizer='momentum',
  learning_rate=1e-2,
  epochs=100,
)
