"""All methods: the first epoch of each published recipe, on CIFAR-10.

  python -m experiments.study --study=experiments/studies/methods.py \
    --workdir=runs/methods --pretrained=FOLDER

The recipes are those of experiments/configs/methods/; schedules that are shares
of a run are shrunk to this one epoch. The VGGs and LAB's network get 50 steps.
FOLDER is needed: recipes differ in the batches that a base model would have.
"""

from ml_collections import ConfigDict

from experiments.configs import methods
from experiments.study import Study


def get_study() -> Study:
  """A setting for each recipe."""
  return Study(
    'All methods: one epoch of each recipe, CIFAR-10',
    {name: _shortened(name) for name in methods.NAMES},
    trials=1,
  )


def _shortened(name: str) -> ConfigDict:
  config = methods.load(name)
  config.epochs = min(config.epochs, 1)
  if config.network in ('vgg_small', 'labnet'):
    config.epoch_steps = 50
  if name == 'admm':
    # Its pull is ρ times the length of the run, here a hundredth.
    config.method.rho *= 100
  return config
