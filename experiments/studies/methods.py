"""All methods: one epoch of each published recipe, on CIFAR-10.

  python -m experiments.study --study=experiments/studies/methods.py \
    --workdir=runs/methods --pretrained=FOLDER

The recipes are those of experiments/configs/methods/. Schedules that span a run
span this one epoch. The VGGs and LAB's network train for 50 steps. FOLDER is
required: recipes differ in batch size, so that each would train another base
model.
"""

from ml_collections import ConfigDict

from experiments.configs import methods
from experiments.study import Study


def get_study() -> Study:
  """Returns one setting per recipe."""
  return Study(
    'All methods: one epoch of each recipe, CIFAR-10',
    {name: _shortened(name) for name in methods.NAMES},
    trials=1,
    figures=False,
  )


def _shortened(name: str) -> ConfigDict:
  config = methods.load(name)
  config.epochs = min(config.epochs, 1)
  if config.network in ('vgg_small', 'labnet'):
    config.epoch_steps = 50
  if name == 'admm':
    # ADMM's pull is ρ times the length of the run, here a hundredth.
    config.method.rho *= 100
  return config
