"""What the recipes of other papers' methods have in common."""

from typing import Any

from ml_collections import ConfigDict

from experiments.build.key import defaults
from experiments.build.methods import METHODS
from experiments.configs import resnet20


def recipe(quantizer: str, **changes: Any) -> ConfigDict:
  """A configuration of a method, with all its options listed.

  Args:
    quantizer: Its name in `experiments.build.methods.METHODS`.
    **changes: Keys of the configuration; `method` may be a dict of options.

  Returns:
    The configuration, of straight-through training where a method has that.
  """
  config = resnet20.get_config()
  config.quantizer, config.estimator = quantizer, 'ste'
  config.method = defaults(METHODS[quantizer].options)
  config.update(changes)
  return config
