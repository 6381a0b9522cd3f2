"""Trains a network of 1 to 8 bit weights on CIFAR.

  python -m experiments.cifar --config=experiments/configs/resnet20.py

Flags and `main` only; the work is in `experiments.train`.
"""

import sys
import time

from absl import app, flags
from ml_collections import config_flags

from experiments import build, display, train

CONFIG = config_flags.DEFINE_config_file(
  'config', 'experiments/configs/resnet20.py', 'Configuration file.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run. Default: a dated one under runs/.'
)


def main(argv: list[str]) -> None:
  """Runs the configuration and shows what came of it."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  config = CONFIG.value
  name = '-'.join(
    config[key] for key in ('network', 'quantizer', 'estimator', 'optimizer')
  )
  workdir = WORKDIR.value or time.strftime(f'runs/%Y%m%d-%H%M%S-{name}')
  try:
    result = train.train_and_evaluate(config, workdir)
  except (
    build.ConfigError,
    FileNotFoundError,
    ValueError,
    train.TrainingDiverged,
  ) as error:
    sys.exit(f'{error}')
  except KeyboardInterrupt:
    sys.exit(130)
  display.print_summary(*result[:5])


if __name__ == '__main__':
  app.run(main)
