"""Studies: which configurations belong together, and under which protocol.

A study is a dict from a name to a configuration. Runs are told apart by what
they compute, never by a name: two studies that hold the same configuration
share its runs.
"""

import importlib.util
import pathlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build.check import check
from experiments.build.fingerprint import identity
from experiments.build.schema import default_config
from experiments.common.errors import ConfigError, InvalidError, MissingError

PROTOCOLS = ('paper', 'fair')
NAME = re.compile(r'[\w.+-]+')  # of a setting: part of a file's name


class Study(NamedTuple):
  """What is run together.

  Attributes:
    title: A line that says what it shows.
    settings: Name to configuration; a name is part of a file's name.
    trials: Seeds a setting gets if the user does not say.
    drops: Setting to a published drop from the base model, and whose it is;
      the study's table then shows drops.
    published: Table of experiments/studies/published.json that the study
      reproduces; '' if there is no such table.
    paper_figures: Figures of the paper that the study reproduces, by the name
      of ours: 'NETWORK-QUANTIZER' for curves, 'factor' for the factor s.
    figures: Whether the study has figures. False if its settings differ in
      more than one respect, which only a table can show.
  """

  title: str
  settings: dict[str, ConfigDict]
  trials: int = 5
  drops: Mapping[str, tuple[float, str]] = MappingProxyType({})
  published: str = ''
  paper_figures: Mapping[str, str] = MappingProxyType({})
  figures: bool = True


def load(path: str | pathlib.Path) -> Study:
  """The study that a file's `get_study()` returns, every setting checked.

  Raises:
    MissingError: If there is no such file.
    InvalidError: If it has no `get_study`, or a name cannot be one of a file.
    ConfigError: If a setting is not one that a run can have.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingError(
      f'There is no study {path}. There are: '
      + ', '.join(str(p) for p in _studies())
    )
  spec = importlib.util.spec_from_file_location(f'study_{path.stem}', path)
  if spec is None or spec.loader is None:
    raise InvalidError(f'{path} is not a Python file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_study'):
    raise InvalidError(f'{path} has no function get_study()')
  study: Study = module.get_study()
  for name, config in study.settings.items():
    if not NAME.fullmatch(name):
      raise InvalidError(
        f'{name!r} in {path} names files, so it must be of letters, digits'
        ' and any of . _ + -'
      )
    try:
      check(config)
    except ConfigError as error:
      raise ConfigError(f'{name} in {path}: {error}') from error
  return study


def load_all() -> dict[str, Study]:
  """All studies of this project, by the names of their files."""
  return {path.stem: load(path) for path in _studies()}


def _studies() -> list[pathlib.Path]:
  folder = pathlib.Path(__file__).parents[1] / 'studies'
  return sorted(p for p in folder.glob('*.py') if p.stem != '__init__')


def in_protocol(protocol: str, **changes: Any) -> ConfigDict:
  """A configuration of the paper, with changes.

  Both protocols are what the authors' logs ran, which the paper's text is not:
  γ constant, three layers in MultiFC, no memory carried in LSTMFC, coupled
  weight decay of 5e-4 under Adam. In 'paper' the straight-through baselines
  keep their asymmetries: no weight decay under Adam, and on CIFAR-100 one drop
  of the learning rate, after epoch 61 (in six of eight; which two it was not
  we do not know). In 'fair' they get what the method got.

  Args:
    protocol: 'paper' or 'fair'.
    **changes: Keys of the configuration and their values.

  Returns:
    The configuration.

  Raises:
    ValueError: If there is no such protocol.
  """
  if protocol not in PROTOCOLS:
    raise ValueError(f'protocol={protocol!r} must be one of {PROTOCOLS}')
  config = default_config()
  config.update(meta_decay_every=0, carry=False)
  wanted = config.to_dict() | changes
  if wanted['estimator'] == 'multi_fc':
    config.layers = 3
  if wanted['optimizer'] == 'adam':
    config.weight_decay = 5e-4
  if protocol == 'paper' and wanted['estimator'] == 'ste':
    config.weight_decay = 0.0
    if wanted['dataset'] == 'cifar100':
      config.decay_every = 61
  config.update(changes)
  return config


def both_protocols(name: str, **changes: Any) -> dict[str, ConfigDict]:
  """A setting, or two where the protocols differ, by name."""
  fair, paper = (in_protocol(p, **changes) for p in ('fair', 'paper'))
  if identity(fair.to_dict()) == identity(paper.to_dict()):
    return {name: fair}
  return {f'{name}-fair': fair, f'{name}-paper': paper}
