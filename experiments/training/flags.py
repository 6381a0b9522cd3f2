"""Defines and parses the flags of the commands that train."""

import sys
import time

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments.build.schema import help_text

DEFAULT = 'experiments/configs/resnet20.py'
# No default here: absl would read a default, and apply the command line to it,
# as soon as this module is imported.
CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  f'Configuration file. Default: {DEFAULT}. Its keys:\n{help_text()}',
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run. Default: a dated folder in runs/.'
)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags as absl does, but reports a wrong --config in one line."""
  if not any(arg.lstrip('-').split('=')[0] == 'config' for arg in argv[1:]):
    argv = [argv[0], f'--config={DEFAULT}', *argv[1:]]
  try:
    rest = app.parse_flags_with_usage(argv)
    # The file is read only when the value is used.
    CONFIG.value.keys()
  except OSError as error:
    sys.exit(f'{error}')
  except (AttributeError, KeyError) as error:
    # ml_collections raises a KeyError for an unknown key, or wraps one.
    inner = error.args[0] if error.args else None
    key = error if isinstance(error, KeyError) else inner
    if not isinstance(key, KeyError):
      raise
    sys.exit('unknown config key ' + f'{key.args[0]}'.replace('\n', '. '))
  if len(rest) > 1:
    sys.exit(f'unknown arguments {rest[1:]}: a flag starts with --')
  return rest


def workdir_for(config: ConfigDict) -> str:
  """Returns the folder that --workdir names, or else a new one."""
  if WORKDIR.value:
    return WORKDIR.value
  keys = ('network', 'quantizer', 'estimator', 'optimizer')
  name = '-'.join([time.strftime('%Y%m%d-%H%M%S'), *(config[k] for k in keys)])
  print(f'To resume this run later, add --workdir=runs/{name}', flush=True)
  return f'runs/{name}'
