"""The form of the recipes of other papers' methods."""

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments.build.key import defaults
from experiments.build.methods import METHODS
from experiments.configs import resnet20


class Recipe:
  """A published recipe. Calling it returns its configuration.

  Attributes:
    name: Name of the method, and bits of weights and activations if both are
      quantized.
    changes: Changes to forward pass, backward pass, optimizer and schedule.
    published: Network and published test accuracy in percent, on CIFAR-10
      unless it says otherwise; (r): recalled, not checked.
    status: Known differences from the paper.
  """

  def __init__(
    self,
    quantizer: str,
    name: str,
    *,
    changes: str,
    published: str = '',
    status: str = '',
    **values: Any,
  ) -> None:
    """Declares a recipe: its attributes, and the arguments of `recipe`."""
    self.name, self.changes = name, changes
    self.published, self.status = published, status
    self._make = functools.partial(recipe, quantizer, **values)

  def __call__(self) -> ConfigDict:
    """Returns the configuration."""
    return self._make()


def recipe(quantizer: str, **values: Any) -> ConfigDict:
  """Returns a configuration of a method, with all its options listed.

  Args:
    quantizer: Name of the method in `experiments.build.methods.METHODS`.
    **values: Values of the configuration, by key; `method` may be a dict of
      options.

  Returns:
    The configuration. Its estimator is 'ste'.
  """
  config = resnet20.get_config(quantizer=quantizer, estimator='ste')
  config.method = defaults(METHODS[quantizer].options)
  config.update(values)
  return config
