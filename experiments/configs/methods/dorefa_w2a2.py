"""DoReFa: weights and activations of 2 bits, W/A 2/2.

  python -m experiments.cifar \
    --config=experiments/configs/methods/dorefa_w2a2.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The first and the last layer keep full precision, as in the paper. The learning
rate and the number of epochs are those of the comparison in PACT.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'dorefa',
  'DoReFa, 2/2',
  changes='forward tanh and a grid; backward g_hat;'
  ' activations on a grid on [0, 1]',
  published="ResNet20 88.2 (PACT's runs)",
  status='gradients are not quantized',
  bits=2,
  activation_quantizer='dorefa',
  activation_bits=2,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=2e-4,
  learning_rate=0.1,
  decay_at='60 120',
  epochs=200,
)
