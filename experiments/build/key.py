"""Declarations of configuration keys, and the check of a value against one."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from experiments.common.errors import ConfigError


class Key(NamedTuple):
  """One key of a configuration. Floats must be finite.

  Attributes:
    default: Value where the user gives none; its type is the type of the key.
      A key whose default is None takes a string or None.
    help: One line for `--help`.
    least: Smallest value.
    most: Largest value; needs `least`.
    above: The value must be larger than this number.
    choices: Allowed values, as a table by name or a tuple.
    identity: Two runs that differ in this key are different settings.
    base: The run of the base model takes the value over.
    training: Only a run of at least one epoch reads the key.
    quantized: Only a run that quantizes weights reads the key.
    learned: Only a run with a learned estimator reads the key.
    stepwise: Only a run whose α falls in steps reads the key.
    file: The value is the path of a file, which counts by its name alone.
    folder: The value is the path of a folder, which does not count.
    replaced_by: Name of the key that replaces this one where it is set.
    needs: Name of the key without which this one has no effect.
  """

  default: Any
  help: str
  least: float | None = None
  most: float | None = None
  above: float | None = None
  choices: Collection[Any] | None = None
  identity: bool = True
  base: bool = False
  training: bool = False
  quantized: bool = False
  learned: bool = False
  stepwise: bool = False
  file: bool = False
  folder: bool = False
  replaced_by: str = ''
  needs: str = ''

  @property
  def kind(self) -> type:
    """Type of the values that are not None."""
    if self.default is None:
      return str
    return ConfigDict if isinstance(self.default, dict) else type(self.default)

  @property
  def bounds(self) -> str:
    """Description of the allowed numbers; '' if all are allowed."""
    if self.most is not None:
      return f'from {self.least} to {self.most}'
    parts = []
    if self.above is not None:
      parts.append(f'above {self.above}')
    if self.least is not None:
      parts.append(f'at least {self.least}')
    if self.kind is float:
      parts.append('finite')
    return ' and '.join(parts)

  def is_in_bounds(self, value: float) -> bool:
    """Returns True if a number is finite and in the bounds of the key."""
    return (
      abs(value) < math.inf
      and (self.least is None or value >= self.least)
      and (self.most is None or value <= self.most)
      and (self.above is None or value > self.above)
    )


def defaults(keys: Mapping[str, Key]) -> ConfigDict:
  """Returns a configuration that has the default of every key."""
  return ConfigDict(
    {
      name: config_dict.placeholder(str) if key.default is None else key.default
      for name, key in keys.items()
    }
  )


def subset(config: Mapping[str, Any], names: Iterable[str]) -> ConfigDict:
  """Returns the part of a configuration that a builder declares as `reads`."""
  return ConfigDict({name: config[name] for name in names})


def as_declared(
  keys: Mapping[str, Key], values: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns all declared keys: defaults, and `values` in the declared types."""
  complete = {name: key.default for name, key in keys.items()} | dict(values)
  floats = [name for name, key in keys.items() if key.kind is float]
  return complete | {name: float(complete[name]) for name in floats}


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
  if not (type(value) in kinds or (value is None and key.default is None)):
    raise ConfigError(f'{name}={value!r} must be of type {key.kind.__name__}.')
  if key.choices is not None and value not in key.choices:
    near = similar_names(str(value), map(str, key.choices))
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ConfigError(
      f'{name}={value!r} must be one of {tuple(key.choices)}.{hint} {key.help}'
    )
  if key.bounds and not key.is_in_bounds(value):
    raise ConfigError(f'{name}={value!r} must be {key.bounds}.')


def from_text(name: str, key: Key, text: str) -> Any:
  """Returns the value of a key that a command line gives as text.

  Args:
    name: Full name of the key for the message.
    key: Declaration of the key.
    text: Text after the equals sign.

  Raises:
    ConfigError: If the text is not a value of the type of the key.
  """
  try:
    if key.kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    return key.kind(text)
  except (KeyError, ValueError) as error:
    raise ConfigError(
      f'{name}={text!r} must be of type {key.kind.__name__}.'
    ) from error


def similar_names(name: str, names: Iterable[str]) -> list[str]:
  """Returns the names that a wrong name may mean, the likeliest first.

  These are names with the same initials (`lr` and `learning_rate`), names that
  contain the wrong one, and names with almost the same letters.
  """
  names = list(names)
  initials = (''.join(w[0] for w in key.split('_') if w) for key in names)
  likely = [
    key
    for key, letters in zip(names, initials, strict=True)
    if name == letters or (len(name) > 2 and name in key)
  ]
  others = [key for key in names if key not in likely]
  likely.sort(key=lambda key: -difflib.SequenceMatcher(None, name, key).ratio())
  return likely + difflib.get_close_matches(name, others)


def help_lines(keys: Mapping[str, Key], prefix: str = 'config') -> list[str]:
  """Returns one line per key: name, default, help and allowed values."""
  lines = []
  for name, key in keys.items():
    allowed = f' {key.bounds.capitalize()}.' if key.bounds else ''
    if key.choices is not None:
      allowed = f' One of {", ".join(map(str, key.choices))}.'
    value = '' if isinstance(key.default, dict) else f'={key.default}'
    lines.append(f'--{prefix}.{name}{value}: {key.help}{allowed}')
  return lines
