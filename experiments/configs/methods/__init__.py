"""Published recipes of other papers' methods, one a file."""

import importlib
import pathlib

from ml_collections import ConfigDict

NAMES = tuple(
  sorted(path.stem for path in pathlib.Path(__file__).parent.glob('[!_]*.py'))
)


def load(name: str) -> ConfigDict:
  """The recipe of this name, one of `NAMES`."""
  module = importlib.import_module(f'{__name__}.{name}')
  config: ConfigDict = module.get_config()
  return config
