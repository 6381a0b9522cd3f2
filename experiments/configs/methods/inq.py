"""INQ: powers of two, by portions, 5 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/inq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers are quantized. The learning rate is not published.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'inq',
  'INQ, 5 bits',
  changes='forward W;'
  ' post_update: largest weights onto powers of two, by portions',
  published='ResNet-18, ImageNet 68.98',
  status='the rate does not restart with each portion',
  bits=5,
  optimizer='momentum',
  weight_decay=5e-4,
  learning_rate=1e-2,
  decay_every=0,
  epochs=32,
)
