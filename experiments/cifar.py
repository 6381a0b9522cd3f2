"""Trains a network of 1 to 8 bit weights on CIFAR or another data set.

python -m experiments.cifar --config=experiments/configs/resnet20.py
"""

from absl import flags

from experiments.training import command
from experiments.training import flags as training_flags

flags.adopt_module_key_flags(training_flags)

if __name__ == '__main__':
  command.run('resnet20.py')
