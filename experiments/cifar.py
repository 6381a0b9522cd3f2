"""Trains a network of 1 to 8 bit weights on CIFAR or another data set.

python -m experiments.cifar --config=experiments/configs/resnet20.py
"""

from absl import app, flags

from experiments.build.check import check
from experiments.common import runtime
from experiments.common.errors import exit_on_user_error
from experiments.training import flags as training_flags
from experiments.training import print_summary, train_and_evaluate

flags.adopt_module_key_flags(training_flags)


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Runs the configuration and shows its result."""
  runtime.configure()
  config = training_flags.CONFIG.value
  check(config)
  workdir = training_flags.workdir_for(config)
  print_summary(train_and_evaluate(config, workdir))


if __name__ == '__main__':
  app.run(main, flags_parser=training_flags.parse_flags)
