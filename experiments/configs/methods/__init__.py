"""Published recipes of other papers' methods, one per file."""

import importlib
import pathlib

from ml_collections import ConfigDict

from experiments.configs.recipe import Recipe

NAMES = tuple(
  sorted(path.stem for path in pathlib.Path(__file__).parent.glob('[!_]*.py'))
)


def load(name: str) -> ConfigDict:
  """Returns the configuration of a recipe, one of `NAMES`."""
  return recipe(name)()


def recipe(name: str) -> Recipe:
  """Returns the recipe of this name, one of `NAMES`."""
  found: Recipe = importlib.import_module(f'{__name__}.{name}').get_config
  return found
