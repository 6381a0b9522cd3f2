"""Trains a network of 1 to 8 bit weights on CIFAR.

  python -m experiments.cifar --config=experiments/configs/resnet20.py

Flags and `main` only; the work is in `experiments.train`.
"""

import sys
import time

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments.build import check
from experiments.common import console, runtime
from experiments.common.errors import exit_on_user_error
from experiments.records import run_log
from experiments.training import train

DEFAULT = 'experiments/configs/resnet20.py'
# Without a default here: a default would be read, and the command line applied
# to it, as soon as this module is imported.
CONFIG = config_flags.DEFINE_config_file(
  'config', None, f'Configuration file. Default: {DEFAULT}.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run. Default: a dated one under runs/.'
)


def parse_flags(argv: list[str]) -> list[str]:
  """As absl does it, but a mistaken --config is told without a traceback."""
  if not any(arg.lstrip('-').split('=')[0] == 'config' for arg in argv[1:]):
    argv = [argv[0], f'--config={DEFAULT}', *argv[1:]]
  try:
    rest = app.parse_flags_with_usage(argv)
    # A file that cannot be read is first noticed where it is used.
    CONFIG.value.keys()
  except OSError as error:
    sys.exit(f'{error}')
  except (AttributeError, KeyError) as error:
    # What ml_collections raises of an unknown key is, or wraps, a KeyError.
    inner = error.args[0] if error.args else None
    key = error if isinstance(error, KeyError) else inner
    if not isinstance(key, KeyError):
      raise
    sys.exit('unknown config key ' + f'{key.args[0]}'.replace('\n', '. '))
  if len(rest) > 1:
    sys.exit(f'unknown arguments {rest[1:]}: a flag starts with --')
  return rest


def workdir_for(config: ConfigDict) -> str:
  """The folder that --workdir names, or else a new one."""
  if WORKDIR.value:
    return WORKDIR.value
  keys = ('network', 'quantizer', 'estimator', 'optimizer')
  name = '-'.join([time.strftime('%Y%m%d-%H%M%S'), *(config[k] for k in keys)])
  print(f'To go on after a stop, add --workdir=runs/{name}', flush=True)
  return f'runs/{name}'


def main(argv: list[str]) -> None:
  """Runs the configuration and shows what came of it."""
  del argv
  runtime.configure()
  with exit_on_user_error():
    config = CONFIG.value
    check.check(config)
    result = train.train_and_evaluate(config, workdir_for(config))
  console.print_summary(
    *result[:5],
    last_epochs=len(run_log.last_epochs(result.records)),
    trial_accuracies=result.trial_accuracies,
  )


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
