"""The methods that `config.quantizer` names, and their options."""

from typing import Any

from ml_collections import ConfigDict

from experiments.build.key import subset
from experiments.build.methods import after_training, basic, binary, gradual
from experiments.build.methods.declaration import AfterTraining as AfterTraining
from experiments.build.methods.declaration import Method as Method
from experiments.build.methods.declaration import MethodContext as MethodContext
from experiments.build.methods.declaration import MethodParts as MethodParts
from experiments.common.errors import ConfigError

METHODS: dict[str, Method] = {
  **basic.METHODS,
  **binary.METHODS,
  **gradual.METHODS,
  **after_training.METHODS,
}


def make_method(
  config: ConfigDict, options: dict[str, Any], context: MethodContext
) -> MethodParts:
  """Makes the parts of the method that `config.quantizer` names.

  Args:
    config: A configuration.
    options: All options of the method.
    context: Properties of the run.

  Raises:
    ConfigError: If a method that trains makes a choice after training.
    ValueError: If a value is out of the range of the library's factory.
  """
  method = METHODS[config.quantizer]
  keys = subset(config, method.reads)
  keys.method = options
  parts = method.make(keys, context)
  if parts.after_training and not method.for_trained:
    raise ConfigError(
      f'config.quantizer={config.quantizer!r} declares after_training, which'
      ' only runs without training apply: declare for_trained=True.'
    )
  return parts
