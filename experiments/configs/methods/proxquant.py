"""ProxQuant: binary weights by a proximal step.

  python -m experiments.cifar \
    --config=experiments/configs/methods/proxquant.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

Adam at a constant rate; the pull grows in proportion to time, and at two
thirds of the run all weights are set to ±1 and frozen. Everything is binary but
the shortcuts' convolutions. `pull`, the sum of all strengths, is that of the
authors' 300 epochs: 0.01 times 1e-4 times the epoch, until epoch 200.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'proxquant',
    float_layers='.*/shortcut/kernel',
    optimizer='adam',
    learning_rate=1e-2,
    decay_every=0,
    epochs=300,
  )
