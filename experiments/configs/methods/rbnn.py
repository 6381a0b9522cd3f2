"""RBNN slope: the gradient of rotated binary networks.

  python -m experiments.cifar \
    --config=experiments/configs/methods/rbnn.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The weights are those of IR-Net, without the rotation of the paper. The schedule
of α is that of ir_net.py.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'libra',
  'RBNN slope',
  estimator='rbnn',
  changes='forward as IR-Net; backward a triangle that narrows',
  published='ResNet20 W1A1 86.5',
  status='without the rotation; activations in full precision; α as in'
  ' ir_net.py',
  per_channel=True,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=0.0001,
  learning_rate=0.1,
  decay_at='200 300 375',
  epochs=400,
)
