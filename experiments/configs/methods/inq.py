"""INQ: powers of two, by portions, 5 bits.

  python -m experiments.cifar \
    --config=experiments/configs/methods/inq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

All layers. The learning rate is not published; the authors start it anew with
each portion, which this does not.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'inq',
    bits=5,
    optimizer='momentum',
    weight_decay=5e-4,
    learning_rate=1e-2,
    decay_every=0,
    epochs=32,
  )
