"""Defines and parses the flags of the commands that train."""

import itertools
import pathlib
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments import configs
from experiments.build.check import check
from experiments.build.key import check_value, from_text, similar_names
from experiments.build.options import OPTIONS, check_names, declared
from experiments.build.schema import KEYS, check_effect, help_text
from experiments.common import processes
from experiments.common.errors import (
  ConfigError,
  InvalidError,
  MissingError,
  UserError,
)
from experiments.training import process_flags, smoke

CONFIGS = pathlib.Path(configs.__file__).parent
DEFAULT = CONFIGS / 'resnet20.py'
# No default here: absl would read a default, and apply the command line to it,
# as soon as this module is imported.
CONFIG = config_flags.DEFINE_config_file(
  'config', None, f'Configuration file. Its keys:\n{help_text()}'
)
WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Folder of the run; empty: a dated folder in runs/.'
)
SMOKE = flags.DEFINE_bool('smoke', False, smoke.HELP)
flags.adopt_module_key_flags(process_flags)
_FIELDS = '|'.join(OPTIONS)
_KEY = re.compile(
  rf'--?(?:no)?config\.(?P<name>(?:{_FIELDS})(?=\.)|[^=]*)(?:[=.].*)?',
  re.DOTALL,
)
_OPTION = re.compile(
  rf'--?(?P<no>no)?config\.(?P<field>{_FIELDS})\.'
  r'(?P<name>[^=]*)(?:=(?P<value>.*))?',
  re.DOTALL,
)


def show_default(path: pathlib.Path) -> None:
  """Makes `--help` show the configuration file that is the default."""
  flags.FLAGS['config'].default_as_str = f"'{path}'"


show_default(DEFAULT)


def parse_flags(argv: list[str], default: pathlib.Path = DEFAULT) -> list[str]:
  """Parses flags as absl does, but reports a wrong --config in one line.

  Args:
    argv: Name of the program and its arguments.
    default: Configuration file if there is no --config.
  """
  try:
    return _parse_flags(argv, default)
  except UserError as error:
    sys.exit(f'{error}')


def _parse_flags(argv: list[str], default: pathlib.Path) -> list[str]:
  if not any(re.fullmatch('--?config(=.*)?', arg) for arg in argv[1:]):
    argv = [argv[0], f'--config={default}', *argv[1:]]
  _check_keys(argv)
  _check_file(argv)
  argv, options = _split_options(argv)
  # ml_collections reads there which keys are given.
  sys.argv[:] = argv
  try:
    rest = app.parse_flags_with_usage(argv)
    # The file is read only when the value is used.
    _drop_options_of_file(CONFIG.value, _config_of(argv))
    _set_options(CONFIG.value, options)
  except OSError as error:
    raise InvalidError(f'The configuration cannot be read: {error}') from error
  except AttributeError as error:
    if name := _missing_key(error):
      raise ConfigError(
        f'The configuration file does not set config.{name}: start from'
        ' experiments.configs.resnet20.get_config().'
      ) from error
    raise
  if len(rest) > 1:
    raise InvalidError(f'unknown arguments {rest[1:]}: a flag starts with --')
  return rest


def _missing_key(error: AttributeError) -> str:
  """Returns the declared key that a configuration lacks, or ''."""
  # ml_collections wraps a KeyError whose message begins with the quoted key.
  inner = error.args[0] if error.args else None
  if not isinstance(inner, KeyError):
    return ''
  match = re.match(r"'(\w+)'", str(inner.args[0]))
  return match[1] if match and match[1] in KEYS else ''


def _config_of(argv: Sequence[str]) -> str:
  """Returns the last value of --config."""
  values = ['']
  for arg, following in itertools.pairwise([*argv, '']):
    if match := re.fullmatch('--?config(?:=(.*))?', arg):
      values.append(following if match[1] is None else match[1])
  return values[-1]


def _check_file(argv: Sequence[str]) -> None:
  """Refuses a configuration file that does not exist."""
  # The text after a colon is an argument of get_config.
  path = _config_of(argv).split(':')[0]
  if not pathlib.Path(path).is_file():
    raise MissingError(
      f'There is no configuration {path}. Those of this project are in'
      f' {CONFIGS}.'
    )


def given_keys(argv: Sequence[str]) -> set[str]:
  """Returns the keys of the configuration that a command line contains."""
  return {match['name'] for arg in argv if (match := _KEY.fullmatch(arg))}


def _check_keys(argv: Sequence[str]) -> None:
  """Refuses keys that are not declared, and suggests similar ones."""
  for name in sorted(given_keys(argv) - set(KEYS)):
    similar = similar_names(name, KEYS)
    hint = f' Similar keys: {", ".join(similar)}.' if similar else ''
    raise ConfigError(
      f'config.{name} is not a key of the configuration.{hint} --help lists all'
      ' keys.'
    )


def _split_options(
  argv: Sequence[str],
) -> tuple[list[str], list[tuple[str, str, str | None]]]:
  """Splits a command line into other arguments, and options of `OPTIONS`.

  ml_collections would take only options that the configuration file lists.

  Returns:
    Other arguments, and per option the key of `OPTIONS`, its name and its text.
    The text is None if the command line has none.
  """
  switches = {
    (field, name)
    for field, options in OPTIONS.items()
    for entry in options.table.values()
    for name, key in entry.options.items()
    if key.kind is bool
  }
  others: list[str] = []
  options: list[tuple[str, str, str | None]] = []
  waiting = list(argv)
  while waiting:
    arg = waiting.pop(0)
    match = _OPTION.fullmatch(arg)
    if match is None:
      others.append(arg)
      continue
    field, name, text = match['field'], match['name'], match['value']
    # As in absl, a switch does not take the next argument.
    if (field, name) in switches and text is None:
      text = 'false' if match['no'] else 'true'
    elif match['no']:
      raise ConfigError(f'{arg} must be --config.{field}.{name}=VALUE.')
    elif text is None and waiting and not waiting[0].startswith('--'):
      text = waiting.pop(0)
    options.append((field, name, text))
  return others, options


def _drop_options_of_file(config: ConfigDict, path: str) -> None:
  """Removes the options in the file of what the command line replaces.

  Options of the file belong to the method and the rule of the file. Those that
  the command line chooses instead may have options of the same names.

  Args:
    config: Configuration of the file and the command line, changed in place.
    path: The value of --config.
  """
  given = given_keys(sys.argv)
  chosen = {f: o.chooser for f, o in OPTIONS.items() if o.chooser in given}
  if not chosen:
    return
  of_file: Any = flags.FLAGS['config'].parser.parse(path)
  with config.unlocked():
    for field, chooser in chosen.items():
      if field in config and config[chooser] != of_file[chooser]:
        config[field] = ConfigDict()


def _set_options(
  config: ConfigDict, options: Sequence[tuple[str, str, str | None]]
) -> None:
  """Sets the options that the command line contains."""
  for field, name, text in options:
    chooser = OPTIONS[field].chooser
    # A missing attribute becomes an error that names the key.
    check_value(f'config.{chooser}', KEYS[chooser], getattr(config, chooser))
    check_names(field, config, [name])
    full_name = f'config.{field}.{name}'
    if text is None:
      raise ConfigError(f'--{full_name} needs a value: --{full_name}=VALUE.')
    value = from_text(full_name, declared(field, config)[name], text)
    with config.unlocked():
      getattr(config, field)[name] = value


def chosen_config() -> ConfigDict:
  """Returns the configuration of the command line, checked.

  Raises:
    ConfigError: If a value is refused, or a key on the command line has no
      effect.
  """
  config = CONFIG.value
  check(config)
  given = given_keys(sys.argv)
  if config.quantizer != 'none' and not config.pretrained:
    # The base model may read a key that the run itself does not read.
    given -= {name for name in KEYS if KEYS[name].base}
  check_effect(config, given)
  return smoke.smoke_config(config) if SMOKE.value else config


def workdir_for(config: ConfigDict) -> tuple[pathlib.Path, str]:
  """Returns the folder that --workdir names, or else a new one.

  Returns:
    The folder, and a notice that says how to resume the run there.
  """
  return processes.from_first(lambda: _workdir_for(config))


def _workdir_for(config: ConfigDict) -> tuple[pathlib.Path, str]:
  keys = ('network', 'quantizer', 'estimator', 'optimizer')
  name = '-'.join([time.strftime('%Y%m%d-%H%M%S'), *(config[k] for k in keys)])
  folder = WORKDIR.value or f'runs/{name}'
  if SMOKE.value:
    return smoke.empty_smoke_folder(folder), ''
  hint = f'To resume this run later, add --workdir={folder}'
  return pathlib.Path(folder), '' if WORKDIR.value else hint
