"""TTQ: ternary weights with two trained scales per layer.

  python -m experiments.cifar \
    --config=experiments/configs/methods/ttq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers except the first are ternary, as in the authors' code for CIFAR-10.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'ttq',
  'TTQ',
  changes='forward −W_n, 0, W_p, both trained; backward scaled by them',
  published='ResNet20 91.13',
  status='200 epochs instead of up to 400',
  float_layers='stem/kernel',
  optimizer='momentum',
  weight_decay=2e-4,
  learning_rate=0.1,
  decay_at='82 123 150',
  epochs=200,
)
