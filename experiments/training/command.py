"""The commands that train and test one configuration."""

import functools

from absl import app

from experiments.common import processes, runtime
from experiments.common.errors import exit_on_user_error
from experiments.training import flags, process_flags
from experiments.training.summary import print_next_commands, print_summary
from experiments.training.train import train_and_evaluate


def run(default_config: str) -> None:
  """Runs the command.

  Args:
    default_config: Name of the configuration file without --config.
  """
  path = flags.CONFIGS / default_config
  flags.show_default(path)
  app.run(main, flags_parser=functools.partial(flags.parse_flags, default=path))


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Runs the configuration and shows its result."""
  runtime.configure(fast_compilation=flags.SMOKE.value)
  process_flags.start()
  config = flags.chosen_config()
  workdir, hint = flags.workdir_for(config)
  result = train_and_evaluate(config, workdir, message=hint)
  if processes.is_first():
    print_summary(result)
    print_next_commands(config, workdir, is_smoke=flags.SMOKE.value)
