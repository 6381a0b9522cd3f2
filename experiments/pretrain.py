"""Trains the full-precision base model that quantized training starts from.

  python -m experiments.pretrain --workdir=runs/base --config.network=resnet20

The recipe is the standard one (`experiments.build.base_model`), for
`config.pretrain_epochs` epochs. With `config.pretrained` it starts from the
weights in that file, with smaller steps; with `config.new_head` the last layer
starts at random, for other classes than those of the file.
"""

import sys

from absl import app, flags
from ml_collections import ConfigDict

from experiments.build.base_model import further_config
from experiments.build.check import check
from experiments.build.schema import KEYS
from experiments.common import processes, runtime
from experiments.common.errors import ConfigError, exit_on_user_error
from experiments.training import flags as training_flags
from experiments.training import process_flags, train_and_evaluate
from experiments.training.smoke import smoke_config

flags.adopt_module_key_flags(training_flags)
# Keys that this command reads and that no base model takes over from a run.
_READS = ('pretrain_epochs', 'pretrained', 'new_head')


def _chosen_config() -> ConfigDict:
  """Returns the configuration; refuses keys that a base model does not read."""
  config = training_flags.CONFIG.value
  check(config)
  if config.pretrain_epochs == 0:
    raise ConfigError(
      'config.pretrain_epochs=0 must be at least 1 to train a base model.'
    )
  for name in sorted(training_flags.given_keys(sys.argv)):
    is_read = KEYS[name].base or name in _READS
    if not is_read and config[name] != KEYS[name].default:
      hint = ' Set config.pretrain_epochs.' if name == 'epochs' else ''
      raise ConfigError(
        f'config.{name}={config[name]!r} has no effect on a base model, whose'
        f' recipe is fixed: leave it out.{hint}'
      )
  return smoke_config(config) if training_flags.SMOKE.value else config


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Trains the base model and prints how to use it."""
  runtime.configure(fast_compilation=training_flags.SMOKE.value)
  process_flags.start()
  config = further_config(_chosen_config())
  workdir, hint = training_flags.workdir_for(config)
  result = train_and_evaluate(config, workdir, message=hint)
  if not processes.is_first():
    return
  print(
    f'{config.network} on {config.dataset}:'
    f' {result.records[-1]["test_accuracy"]:.2f}% test accuracy.\n'
    f'Start from it with --config.pretrained={result.model_path}'
  )


if __name__ == '__main__':
  app.run(main, flags_parser=training_flags.parse_flags)
