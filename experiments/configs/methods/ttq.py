"""TTQ: ternary weights with two trained scales a layer.

  python -m experiments.cifar \
    --config=experiments/configs/methods/ttq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

All layers but the first are ternary, the last one too, as in the authors'
code for CIFAR-10. 200 epochs, of the authors' 400 at most.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'ttq',
    float_layers='stem/kernel',
    optimizer='momentum',
    weight_decay=2e-4,
    learning_rate=0.1,
    decay_at='82 123 150',
    epochs=200,
  )
