"""The form of the recipes of other papers' methods."""

from typing import Any

from ml_collections import ConfigDict

from experiments.build.key import defaults
from experiments.build.options import declared
from experiments.configs import resnet20


class Recipe:
  """A published recipe. Calling it returns its configuration.

  Attributes:
    quantizer: Name of the method in `experiments.build.methods.METHODS`.
    estimator: Name of the backward rule in
      `experiments.build.estimators.ESTIMATORS`.
    name: Name of the recipe in tables, with the bits of weights and activations
      if both are quantized.
    changes: Changes to forward pass, backward pass, optimizer and schedule.
    published: Network and published test accuracy in percent, on CIFAR-10
      unless it says otherwise; (r): recalled, not checked.
    status: Known differences from the paper.
    values: Values of the configuration, by key; `method` and `rule` may be
      dicts of options.
  """

  def __init__(
    self,
    quantizer: str,
    name: str,
    *,
    changes: str,
    estimator: str = 'ste',
    published: str = '',
    status: str = '',
    **values: Any,
  ) -> None:
    self.quantizer, self.estimator = quantizer, estimator
    self.name, self.changes = name, changes
    self.published, self.status, self.values = published, status, values

  def __call__(self) -> ConfigDict:
    """Returns the configuration.

    It lists all options of its method, but of its rule only those that the
    recipe sets, because the command line may choose another rule.
    """
    config = resnet20.get_config(
      quantizer=self.quantizer, estimator=self.estimator
    )
    config.method = defaults(declared('method', config))
    with config.unlocked():
      config.update(self.values)
    return config
