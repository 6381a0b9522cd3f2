"""Base models: the trained weights that quantized training starts from."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.build.schema import KEYS, default_config

RECIPE: dict[str, Any] = {
  'quantizer': 'none',
  'estimator': 'ste',
  'optimizer': 'momentum',
  'weight_decay': 1e-4,
  'learning_rate': 0.1,
}

# The keys that choose the weights that a run starts from.
START_KEYS = frozenset(
  name for name in KEYS if 'pretrained' in (name, KEYS[name].replaced_by)
)

# Weights that are trained further need smaller steps than random ones.
FURTHER_LEARNING_RATE = 1e-3


def base_config(config: ConfigDict) -> ConfigDict:
  """Returns the configuration of the run that makes the base model.

  The recipe is that of ResNets for CIFAR: SGD with momentum 0.9, weight decay
  1e-4 and a cosine from 0.1 to 0, from random weights. Keys that only quantized
  training reads have their defaults, so that runs which differ in them share a
  base model.

  Args:
    config: Configuration of a run that starts from the base model.
  """
  base = default_config()
  base.update({name: config[name] for name, key in KEYS.items() if key.base})
  base.update(RECIPE, epochs=config.pretrain_epochs)
  return base


def further_config(config: ConfigDict) -> ConfigDict:
  """Returns the run that makes the base model from the weights of a file.

  It is `base_config` with a learning rate of `FURTHER_LEARNING_RATE`, if
  `config.pretrained` names a file.
  """
  base = base_config(config)
  if config.pretrained:
    base.update(
      pretrained=config.pretrained,
      new_head=config.new_head,
      learning_rate=FURTHER_LEARNING_RATE,
    )
  return base


def is_from_scratch(config: Mapping[str, Any]) -> bool:
  """Returns True if a run starts from random weights.

  Args:
    config: The whole configuration, which may come from a log.
  """
  needs_base = config['quantizer'] != 'none' and config['pretrain_epochs'] > 0
  return not needs_base and not config['pretrained']


def have_one_start(config: Mapping[str, Any]) -> bool:
  """Returns True if all seeds start from the same weights.

  Args:
    config: The whole configuration, which may come from a log.
  """
  return not is_from_scratch(config) and not config.get('new_head')
