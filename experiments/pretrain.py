"""Makes the full-precision base model that quantized training starts from.

  python -m experiments.pretrain --workdir=runs/base --config.network=resnet20

The standard recipe, `config.pretrain_epochs` long: `train_step.base_config`.
"""

from absl import app, flags

from experiments import cifar
from experiments.build import check, train_step
from experiments.common import errors, runtime
from experiments.training import train

flags.adopt_module_key_flags(cifar)


def main(argv: list[str]) -> None:
  """Trains the base model and says how to use it."""
  del argv
  runtime.configure()
  with errors.exit_on_user_error():
    check.check(cifar.CONFIG.value)
    config = train_step.base_config(cifar.CONFIG.value)
    result = train.train_and_evaluate(config, cifar.workdir_for(config))
  print(
    f'{config.network} on {config.dataset}:'
    f' {result.base_accuracy:.2f}% test accuracy.\n'
    f'Start from it with --config.pretrained={result.model_path}'
  )


if __name__ == '__main__':
  app.run(main, flags_parser=cifar.parse_flags)
