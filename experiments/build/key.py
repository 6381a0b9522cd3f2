"""Declarations of configuration keys, and the check of a value against one."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from experiments.common.errors import ConfigError


class Key(NamedTuple):
  """One key of a configuration.

  Attributes:
    default: Value where the user gives none; its type is the type of the key.
    help: One line for `--help`.
    least: Smallest value. A bounded value must be finite.
    most: Largest value.
    above: The value must be larger than this number.
    choices: Allowed values, as a table by name or a tuple.
    optional: The value may be None; `default` is then a string or None.
    identity: Two runs that differ in this key are different settings.
    base: The run of the base model takes the value over.
    training: Only a run of at least one epoch reads the key.
    file: The value is the path of a file, which counts by its name alone.
    folder: The value is the path of a folder, which does not count.
    replaced_by: Name of the key that replaces this one where it is set.
  """

  default: Any
  help: str
  least: float | None = None
  most: float | None = None
  above: float | None = None
  choices: Collection[Any] | None = None
  optional: bool = False
  identity: bool = True
  base: bool = False
  training: bool = False
  file: bool = False
  folder: bool = False
  replaced_by: str = ''

  @property
  def kind(self) -> type:
    """Type of the values that are not None."""
    if isinstance(self.default, dict):
      return ConfigDict
    return str if self.optional else type(self.default)


def defaults(keys: Mapping[str, Key]) -> ConfigDict:
  """Returns a configuration that has the default of every key."""
  config = ConfigDict()
  for name, key in keys.items():
    config[name] = config_dict.placeholder(str) if key.optional else key.default
  return config


def subset(config: Mapping[str, Any], names: Iterable[str]) -> ConfigDict:
  """Returns the part of a configuration that a builder declares as `reads`."""
  return ConfigDict({name: config[name] for name in names})


def as_declared(
  keys: Mapping[str, Key], values: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns all declared keys: defaults, and `values` in the declared types."""
  given = {
    name: float(value)
    if name in keys and isinstance(keys[name].default, float)
    else value
    for name, value in values.items()
  }
  return {name: key.default for name, key in keys.items()} | given


def check_value(name: str, key: Key, value: Any) -> None:
  """Refuses a value that a key does not allow.

  Args:
    name: Full name of the key for the message, such as 'config.hidden'.
    key: Declaration of the key.
    value: Value to check.

  Raises:
    ConfigError: If the value has another type, is out of range or is not among
      the choices. The message names the key, the value and what is allowed.
  """
  # A bool is an int to Python, and an int is valid where a float is wanted.
  kinds = (int, float) if key.kind is float else (key.kind,)
  if not (type(value) in kinds or (value is None and key.optional)):
    raise ConfigError(f'{name}={value!r} must be of type {key.kind.__name__}.')
  if key.choices is not None and value not in key.choices:
    raise ConfigError(f'{name}={value!r} must be one of {tuple(key.choices)}.')
  infinite = float('inf')
  least = -infinite if key.least is None else key.least
  most = infinite if key.most is None else key.most
  above = -infinite if key.above is None else key.above
  bounded = (key.least, key.most, key.above) != (None, None, None)
  if bounded and not (
    least <= value <= most and above < value and abs(value) < infinite
  ):
    raise ConfigError(f'{name}={value!r} must be {_range(key)}.')


def _range(key: Key) -> str:
  """Describes the bounds of a key."""
  if key.least is not None and key.most is not None:
    return f'from {key.least} to {key.most}'
  if key.above is not None:
    return f'above {key.above} and finite'
  if key.least is not None:
    return f'at least {key.least} and finite'
  return f'at most {key.most} and finite'


def help_lines(keys: Mapping[str, Key], prefix: str = 'config') -> list[str]:
  """Returns one line per key: name, default, help and allowed values."""
  lines = []
  for name, key in keys.items():
    allowed = ''
    if key.choices is not None:
      allowed = f' One of {", ".join(map(str, key.choices))}.'
    elif key.least is not None or key.most is not None or key.above is not None:
      allowed = f' {_range(key).capitalize()}.'
    value = '' if isinstance(key.default, dict) else f'={key.default}'
    lines.append(f'--{prefix}.{name}{value}: {key.help}{allowed}')
  return lines
