"""The methods that `config.quantizer` names, and their options."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from experiments.build.key import as_declared, check_value, subset
from experiments.build.methods import after_training, basic, gradual
from experiments.build.methods.declaration import AfterTraining as AfterTraining
from experiments.build.methods.declaration import Method as Method
from experiments.build.methods.declaration import MethodContext as MethodContext
from experiments.build.methods.declaration import MethodParts as MethodParts
from experiments.common.errors import ConfigError

METHODS: dict[str, Method] = {
  **basic.METHODS,
  **gradual.METHODS,
  **after_training.METHODS,
}


def check_options(quantizer: str, names: Iterable[str]) -> None:
  """Refuses options that a method does not declare.

  Args:
    quantizer: Key of `METHODS`.
    names: Names of the options.

  Raises:
    ConfigError: If the method has no such option; the message names its options
      and the methods that have one of this name.
  """
  options = METHODS[quantizer].options
  for name in names:
    if name not in options:
      own = ', '.join(sorted(options)) or 'no options'
      others = [
        key for key, method in METHODS.items() if name in method.options
      ]
      hint = f' Only with config.quantizer={", ".join(others)}.' * bool(others)
      raise ConfigError(
        f'config.method.{name} is not an option of config.quantizer='
        f'{quantizer!r}, which has {own}.{hint}'
      )


def make_method(config: ConfigDict, context: MethodContext) -> MethodParts:
  """Makes the parts of the method that `config.quantizer` names.

  Raises:
    ConfigError: If the method does not declare an option, its value is not
      allowed, or a method that trains makes a choice after training.
    ValueError: If a value is out of the range of the library's factory.
  """
  method = METHODS[config.quantizer]
  check_options(config.quantizer, config.method)
  for name, value in config.method.items():
    check_value(f'config.method.{name}', method.options[name], value)
  keys = subset(config, method.reads)
  keys.method = as_declared(method.options, config.method.to_dict())
  parts = method.make(keys, context)
  if parts.after_training and not method.for_trained:
    raise ConfigError(
      f'config.quantizer={config.quantizer!r} declares after_training, which'
      ' only runs without training apply: declare for_trained=True.'
    )
  return parts
