"""TWN: ternary weights.

  python -m experiments.cifar \
    --config=experiments/configs/methods/twn.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'twn',
  'TWN',
  changes='forward ternary, threshold and scale from mean |W|; backward g_hat',
  published='ResNet-18, ImageNet 61.8',
  status='recipe from memory',
  optimizer='momentum',
  weight_decay=1e-4,
  learning_rate=0.1,
  decay_at='80 120',
  epochs=160,
)
