"""LAB: binary weights scaled by the curvature, on LABNet.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lab.py

From random weights, all layers binary, squared hinge loss, images neither
cropped nor mirrored, tested on 5,000 training images. The authors also whiten
the images, which this does not.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'lab',
    network='labnet',
    head_norm=True,
    pretrain_epochs=0,
    holdout=5000,
    loss='squared_hinge',
    augment=False,
    batch_size=50,
    optimizer='adam',
    learning_rate=0.03,
    decay_every=15,
    decay_factor=0.5,
    epochs=200,
  )
