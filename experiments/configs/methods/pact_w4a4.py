"""PACT: weights and activations of 4 bits, W/A 4/4.

  python -m experiments.cifar \
    --config=experiments/configs/methods/pact_w4a4.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'dorefa',
  'PACT, 4/4',
  changes='weights as in DoReFa; activations with a trained, decayed clip',
  published='ResNet20 91.3',
  status='usual order of layers in blocks',
  bits=4,
  activation_quantizer='pact',
  activation_bits=4,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=2e-4,
  learning_rate=0.1,
  decay_at='60 120',
  epochs=200,
)
