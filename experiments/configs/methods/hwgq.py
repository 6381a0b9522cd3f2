"""HWGQ: binary weights, activations of 2 bits, W/A 1/2.

  python -m experiments.cifar \
    --config=experiments/configs/methods/hwgq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bwn',
  'HWGQ, 1/2',
  changes='as BWN, slope 1;'
  ' activations on half-normal levels, clipped ReLU backward',
  published='VGG-Small 92.0 to 92.5',
  status='batch norm has a scale and a shift; our rate',
  per_channel=True,
  scaled_gradient=False,
  activation_quantizer='hwgq',
  activation_bits=2,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  learning_rate=1e-2,
  epochs=100,
)
