"""Published recipes of other papers' methods, one per file."""

import importlib
import pathlib
import types

from ml_collections import ConfigDict

from experiments.configs.recipe import About

NAMES = tuple(
  sorted(path.stem for path in pathlib.Path(__file__).parent.glob('[!_]*.py'))
)


def load(name: str) -> ConfigDict:
  """Returns the recipe of this name, one of `NAMES`."""
  config: ConfigDict = _module(name).get_config()
  return config


def about(name: str) -> About:
  """Returns the facts of the recipe of this name, one of `NAMES`."""
  facts: About = _module(name).ABOUT
  return facts


def _module(name: str) -> types.ModuleType:
  return importlib.import_module(f'{__name__}.{name}')
