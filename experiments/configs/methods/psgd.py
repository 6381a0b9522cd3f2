"""PSGD: weights that can be quantized after training, 4 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/psgd.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The recipe starts from a trained network, like the second part of the authors'
run: 68 epochs at 0.01, divided by ten after 41, with gradients scaled by 150
times the distance to the grid. The grid spans the current largest weight (in
the paper: a moving average). The final quantization needs no data.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'psgd',
  'PSGD, 4 bits',
  changes='forward W; refine: gradients scaled by the distance to the grid',
  published='ResNet-32, CIFAR-100 69.57',
  status='the grid follows max |W| without averaging',
  method={'start': 0.0},
  bits=4,
  optimizer='momentum',
  weight_decay=1e-4,
  learning_rate=1e-2,
  decay_at='41',
  epochs=68,
)
