"""Trains a language model of 1 to 8 bit weights on the bytes of a text.

python -m experiments.lm --config=experiments/configs/gpt.py
"""

from absl import flags

from experiments.training import command
from experiments.training import flags as training_flags

flags.adopt_module_key_flags(training_flags)

if __name__ == '__main__':
  command.run('gpt.py')
