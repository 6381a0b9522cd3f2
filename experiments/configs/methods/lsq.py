"""LSQ: trained step sizes, weights of 2 bits, all layers.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lsq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The recipe is that of lsq_w2a2.py, with activations in full precision.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lsq',
  'LSQ, 2 bits',
  changes='forward a grid with a trained step; backward g_hat within it',
  status='the published recipe is for ImageNet',
  bits=2,
  optimizer='momentum',
  weight_decay=2.5e-5,
  learning_rate=1e-2,
  epochs=90,
)
