"""The form of the recipes of other papers' methods."""

from typing import Any

from ml_collections import ConfigDict

from experiments.build.key import defaults
from experiments.build.methods import METHODS
from experiments.configs import resnet20


class Recipe:
  """A published recipe. Calling it returns its configuration.

  Attributes:
    quantizer: Name of the method in `experiments.build.methods.METHODS`.
    name: Name of the recipe in tables, with the bits of weights and activations
      if both are quantized.
    changes: Changes to forward pass, backward pass, optimizer and schedule.
    published: Network and published test accuracy in percent, on CIFAR-10
      unless it says otherwise; (r): recalled, not checked.
    status: Known differences from the paper.
    values: Values of the configuration, by key; `method` may be a dict of
      options.
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
    self.quantizer, self.name, self.changes = quantizer, name, changes
    self.published, self.status, self.values = published, status, values

  def __call__(self) -> ConfigDict:
    """Returns the configuration, which lists all options of the method.

    Its estimator is 'ste'.
    """
    config = resnet20.get_config(quantizer=self.quantizer, estimator='ste')
    config.method = defaults(METHODS[self.quantizer].options)
    config.update(self.values)
    return config
