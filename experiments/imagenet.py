"""Trains a network of 1 to 8 bit weights on ImageNet or your photographs.

python -m experiments.imagenet --config=experiments/configs/resnet18.py

It is the command `experiments.cifar` with another default configuration.
"""

from absl import flags

from experiments.training import command
from experiments.training import flags as training_flags

flags.adopt_module_key_flags(training_flags)

if __name__ == '__main__':
  command.run('resnet18.py')
