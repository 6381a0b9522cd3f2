"""Trains the full-precision base model that quantized training starts from.

  python -m experiments.pretrain --workdir=runs/base --config.network=resnet20

The recipe is the standard one (`experiments.build.base_model`), for
`config.pretrain_epochs` epochs.
"""

from absl import app, flags

from experiments.build.base_model import base_config
from experiments.build.check import check
from experiments.common import runtime
from experiments.common.errors import ConfigError, exit_on_user_error
from experiments.training import flags as training_flags
from experiments.training import train_and_evaluate

flags.adopt_module_key_flags(training_flags)


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Trains the base model and prints how to use it."""
  runtime.configure()
  config = training_flags.CONFIG.value
  check(config)
  if config.pretrain_epochs == 0:
    raise ConfigError(
      'config.pretrain_epochs=0 must be at least 1 to train a base model.'
    )
  config = base_config(config)
  result = train_and_evaluate(config, training_flags.workdir_for(config))
  print(
    f'{config.network} on {config.dataset}:'
    f' {result.base_accuracy:.2f}% test accuracy.\n'
    f'Start from it with --config.pretrained={result.model_path}'
  )


if __name__ == '__main__':
  app.run(main, flags_parser=training_flags.parse_flags)
