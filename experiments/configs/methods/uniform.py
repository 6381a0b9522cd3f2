"""Uniform quantization after training: one grid per layer, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/uniform.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The method needs neither training nor data. PSGD quantizes its networks this
way.
"""

import functools

from experiments.configs.recipe import About, recipe

ABOUT = About(
  'Uniform, 4 bits, after training',
  changes='one grid per layer, up to max |W|',
)


get_config = functools.partial(recipe, 'uniform', bits=4, epochs=0)
