"""The methods that `config.quantizer` names, and their options."""

from ml_collections import ConfigDict

from experiments.build.key import as_declared, check_value, subset
from experiments.build.methods import after_training, basic, gradual
from experiments.build.methods.declaration import AfterTraining as AfterTraining
from experiments.build.methods.declaration import Method as Method
from experiments.build.methods.declaration import Parts as Parts
from experiments.build.methods.declaration import Run as Run
from experiments.common.errors import ConfigError

METHODS: dict[str, Method] = {
  **basic.METHODS,
  **gradual.METHODS,
  **after_training.METHODS,
}


def options_of(config: ConfigDict) -> ConfigDict:
  """Returns all options of a method: `config.method` over the defaults.

  Raises:
    ConfigError: If the method does not declare an option, or its value is not
      allowed.
  """
  declared = METHODS[config.quantizer].options
  for name, value in config.method.items():
    if name not in declared:
      raise ConfigError(
        f'config.method.{name} is not an option of config.quantizer='
        f'{config.quantizer!r}; its options are {sorted(declared)}.'
      )
    check_value(f'config.method.{name}', declared[name], value)
  return ConfigDict(as_declared(declared, config.method.to_dict()))


def make_method(config: ConfigDict, run: Run) -> Parts:
  """Makes the parts of the method that `config.quantizer` names.

  Raises:
    ConfigError: If an option is unknown or its value is not allowed.
    ValueError: If a value is out of the range of the library's factory.
  """
  method = METHODS[config.quantizer]
  keys = subset(config, method.reads)
  return method.make(keys, options_of(config), run)
