"""ProxQuant: ternary weights by a proximal step.

  python -m experiments.cifar \
    --config=experiments/configs/methods/proxquant_ternary.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

As proxquant.py; first and last layer in full precision, frozen at 400 of 600
epochs, and the squared distance in the place of the distance.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'proxquant',
    method={'levels': 'ternary', 'prox': 'l2', 'pull': 31.3},
    float_layers='(stem|head|.*/shortcut)/kernel',
    optimizer='adam',
    learning_rate=1e-2,
    decay_every=0,
    epochs=600,
  )
