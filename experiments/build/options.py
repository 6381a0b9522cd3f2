"""Options of the chosen method and of the chosen estimator.

A method declares its options in `Method.options`, which `config.method` sets,
and an estimator in `Estimator.options`, which `config.rule` sets.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build.estimators import ESTIMATORS
from experiments.build.key import Key, as_declared, check_value
from experiments.build.methods import METHODS
from experiments.common.errors import ConfigError


class Options(NamedTuple):
  """Where options are declared.

  Attributes:
    chooser: Key of the configuration that chooses an entry of `table`.
    table: Entries with `options`, a mapping of `Key`.
  """

  chooser: str
  table: Mapping[str, Any]


# Key of the configuration that holds options, to their declaration.
OPTIONS = {
  'method': Options('quantizer', METHODS),
  'rule': Options('estimator', ESTIMATORS),
}


def declared(field: str, config: Mapping[str, Any]) -> Mapping[str, Key]:
  """Returns the options that the chosen entry declares.

  Args:
    field: Key of `OPTIONS`.
    config: Configuration; a chosen name that is not in the table has none.
  """
  entry = OPTIONS[field].table.get(config[OPTIONS[field].chooser])
  return entry.options if entry else {}


def complete(field: str, config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns all options of the chosen entry; missing ones have defaults."""
  return as_declared(declared(field, config), dict(config[field]))


def check_names(
  field: str, config: Mapping[str, Any], names: Iterable[str]
) -> None:
  """Refuses options that the chosen entry does not declare.

  Args:
    field: Key of `OPTIONS`.
    config: Configuration whose chosen entry is in the table.
    names: Names of the options.

  Raises:
    ConfigError: If there is no such option; the message names the options, and
      the entries that have one of this name.
  """
  chooser, table = OPTIONS[field]
  options = declared(field, config)
  for name in names:
    if name not in options:
      own = ', '.join(sorted(options)) or 'no options'
      others = [key for key, entry in table.items() if name in entry.options]
      hint = f' Only with config.{chooser}={", ".join(others)}.' * bool(others)
      raise ConfigError(
        f'config.{field}.{name} is not an option of config.{chooser}='
        f'{config[chooser]!r}, which has {own}.{hint}'
      )


def check_options(field: str, config: ConfigDict) -> None:
  """Refuses unknown options, and values that an option does not allow.

  Raises:
    ConfigError: If an option is refused.
  """
  check_names(field, config, config[field])
  options = declared(field, config)
  for name, value in config[field].items():
    check_value(f'config.{field}.{name}', options[name], value)
