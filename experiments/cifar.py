"""Trains a network of 1 to 8 bit weights on CIFAR or another data set.

python -m experiments.cifar --config=experiments/configs/resnet20.py
"""

from absl import app, flags

from experiments.common import runtime
from experiments.common.errors import exit_on_user_error
from experiments.training import flags as training_flags
from experiments.training import (
  print_next_commands,
  print_summary,
  train_and_evaluate,
)

flags.adopt_module_key_flags(training_flags)


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Runs the configuration and shows its result."""
  runtime.configure(fast_compilation=training_flags.SMOKE.value)
  config = training_flags.chosen_config()
  workdir, hint = training_flags.workdir_for(config)
  print_summary(train_and_evaluate(config, workdir, message=hint))
  print_next_commands(config, workdir, is_smoke=training_flags.SMOKE.value)


if __name__ == '__main__':
  app.run(main, flags_parser=training_flags.parse_flags)
