"""The form of the recipes of other papers' methods."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build.key import defaults
from experiments.build.methods import METHODS
from experiments.configs import resnet20


class About(NamedTuple):
  """Facts of a recipe that no run measures.

  Attributes:
    method: Name, and bits of weights and activations if both are quantized.
    changes: Changes to forward pass, backward pass, optimizer and schedule.
    published: Network and published test accuracy in percent, on CIFAR-10
      unless it says otherwise; (r): recalled, not checked.
    status: Known differences from the paper.
  """

  method: str
  changes: str
  published: str = ''
  status: str = ''


def recipe(quantizer: str, **changes: Any) -> ConfigDict:
  """Returns a configuration of a method, with all its options listed.

  Args:
    quantizer: Name of the method in `experiments.build.methods.METHODS`.
    **changes: Values of the configuration, by key; `method` may be a dict of
      options.

  Returns:
    The configuration. Its estimator is 'ste'.
  """
  config = resnet20.get_config()
  config.quantizer, config.estimator = quantizer, 'ste'
  config.method = defaults(METHODS[quantizer].options)
  config.update(changes)
  return config
