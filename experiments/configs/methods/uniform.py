"""Uniform quantization after training: one grid per layer, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/uniform.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The method needs neither training nor data. PSGD quantizes its networks this
way.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'uniform',
  'Uniform, 4 bits, after training',
  changes='one grid per layer, up to max |W|',
  bits=4,
  epochs=0,
)
