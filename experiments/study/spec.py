"""Studies: configurations that belong together, and their protocol.

A study maps names to configurations. Runs are identified by what they compute,
not by a name: two studies with the same configuration share its runs.
"""

import functools
import importlib.util
import json
import pathlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build.base_model import START_KEYS, is_from_scratch
from experiments.build.check import check
from experiments.build.fingerprint import identity
from experiments.build.schema import KEYS, default_config
from experiments.common.errors import ConfigError, InvalidError, MissingError

PROTOCOLS = ('paper', 'fair')
# The name of a setting is part of file names.
NAME = re.compile(r'[\w.+-]+')


class Drop(NamedTuple):
  """A published difference from the base model, in percentage points.

  Attributes:
    accuracy: Drop of the accuracy; negative if the accuracy rises.
    source: Name of the publication.
    top5_accuracy: Drop of the top-5 accuracy; None if it is not published.
  """

  accuracy: float
  source: str
  top5_accuracy: float | None = None


class Study(NamedTuple):
  """Configurations that are run and compared together.

  Attributes:
    title: Title of one line.
    settings: Configuration of each setting, by name.
    trials: Default number of seeds per setting.
    drops: Published drops, by the name of the setting, possibly none. The table
      of the study shows drops; None for a table without drops.
    published: Table of experiments/studies/published.json that the study
      reproduces; '' if there is no such table.
    paper_figures: Figures of the paper that the study reproduces, by the name
      of ours: 'NETWORK-QUANTIZER' for curves, 'factor' for the factor s.
    paper_mean: Sentence on the epochs whose mean the paper prints; '' if it is
      not known.
    figures: The study has figures. False if its settings differ in more than
      one respect, which only a table can show.
    over_time: The study has a figure of accuracy over minutes. The names of its
      settings are 'RECIPE-EPOCHS'.
    over_steps: The study has a figure of bits per symbol over steps. The names
      of its settings are 'FORWARD-BACKWARD', or 'full' in full precision.
    tuned: The study has a table and a figure of each rule at its best step
      size. The names of its settings are 'FORWARD-BACKWARD-RATE', or
      'FORWARD-RATE' in full precision, and its data have symbols.
    baselines: Setting to the setting that it is compared with, seed by seed.
      The study has a column and a figure of these differences.
  """

  title: str
  settings: dict[str, ConfigDict]
  trials: int = 5
  drops: Mapping[str, Drop] | None = None
  published: str = ''
  paper_figures: Mapping[str, str] = MappingProxyType({})
  paper_mean: str = 'The paper takes the mean over the last ten epochs.'
  figures: bool = True
  over_time: bool = False
  over_steps: bool = False
  tuned: bool = False
  baselines: Mapping[str, str] = MappingProxyType({})


def load(path: str | pathlib.Path) -> Study:
  """Loads the study that `get_study()` of a file returns, and checks it.

  Args:
    path: Python file.

  Raises:
    MissingError: If there is no such file.
    InvalidError: If the file is not Python or has no `get_study`, if that
      returns no `Study`, if the name of a setting has characters that file
      names should not have, if the study would ignore a seed or a baseline, or
      if tables could not distinguish the runs of two settings.
    ConfigError: If no run can have the configuration of a setting.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingError(
      f'There is no study {path}. Use one of ' + ', '.join(map(str, _studies()))
    )
  spec = importlib.util.spec_from_file_location(f'study_{path.stem}', path)
  if spec is None or spec.loader is None:
    raise InvalidError(f'{path} is not a Python file.')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise InvalidError(f'{path} is not a Python file: {error}') from error
  if not hasattr(module, 'get_study'):
    raise InvalidError(f'{path} has no function get_study().')
  study: Study = module.get_study()
  _check_study(path, study)
  for name, config in study.settings.items():
    if not NAME.fullmatch(name):
      raise InvalidError(
        f'The setting {name!r} in {path} becomes part of file names. Use only'
        ' letters, digits, and the characters . _ + -'
      )
    try:
      _check(json.dumps(config.to_dict()))
    except ConfigError as error:
      raise ConfigError(f'{name} in {path}: {error}') from error
  _check_bases(path, study.settings)
  return study


def _check_bases(
  path: pathlib.Path, settings: Mapping[str, ConfigDict]
) -> None:
  """Refuses settings of which only some name the base model they differ in.

  A setting that names none takes the runs from any base model.
  """
  first: dict[Any, str] = {}
  for name, config in settings.items():
    start = is_from_scratch(config), config.epochs
    key = start, identity(config.to_dict(), without=START_KEYS | {'epochs'})
    other = first.setdefault(key, name)
    if bool(settings[other].pretrained) != bool(config.pretrained):
      raise InvalidError(
        f'The settings {other} and {name} in {path} differ only in their base'
        ' model, and one of them names none, so tables cannot distinguish'
        ' their runs: set pretrained in both.'
      )


def _check_study(path: pathlib.Path, study: Any) -> None:
  """Refuses what is not a study, and what a study would ignore."""
  if not isinstance(study, Study):
    raise InvalidError(
      f'get_study() of {path} returned a {type(study).__name__}: return a'
      ' Study(title, settings).'
    )
  if study.trials < 1:
    raise InvalidError(f'trials={study.trials} in {path} must be at least 1.')
  for name, config in study.settings.items():
    if not isinstance(config, ConfigDict):
      raise InvalidError(
        f'The setting {name!r} in {path} is a {type(config).__name__}: make it'
        ' by in_protocol(...) or another function that returns a ConfigDict.'
      )
    for key in ('seed', 'trials'):
      if config.get(key, KEYS[key].default) != KEYS[key].default:
        raise InvalidError(
          f'config.{key}={config[key]!r} of the setting {name!r} in {path} has'
          ' no effect: a study has the seeds 0 to trials - 1, from'
          ' Study(trials=...) or --trials.'
        )
  for setting, baseline in study.baselines.items():
    for name in (setting, baseline):
      if name not in study.settings:
        raise InvalidError(
          f'baselines in {path} name the setting {name!r}, which the study does'
          ' not have.'
        )


@functools.cache
def _check(config: str) -> None:
  """Checks a configuration once, because it takes 40 ms."""
  check(ConfigDict(json.loads(config)))


def load_all() -> dict[str, Study]:
  """Loads all studies of this project, by the names of their files."""
  return {path.stem: load(path) for path in _studies()}


def _studies() -> list[pathlib.Path]:
  """Returns the files of all studies of this project."""
  folder = pathlib.Path(__file__).parents[1] / 'studies'
  return sorted(p for p in folder.glob('*.py') if p.stem != '__init__')


def in_protocol(protocol: str, **changes: Any) -> ConfigDict:
  """Returns a configuration of the paper, with changes.

  Both protocols follow the authors' logs, which differ from the paper's text: γ
  is constant, MultiFC has three layers, LSTMFC carries no memory, and Adam has
  a coupled weight decay of 5e-4. In 'paper' the straight-through baselines have
  no weight decay under Adam, as in the logs. In 'fair' they have the settings
  of the method.

  Args:
    protocol: 'paper' or 'fair'.
    **changes: Keys of the configuration and their values.

  Raises:
    ValueError: If there is no such protocol.
  """
  if protocol not in PROTOCOLS:
    raise ValueError(f'protocol={protocol!r} must be one of {PROTOCOLS}')
  config = default_config()
  config.update(meta_decay_every=0, carry=False)
  changed = config.to_dict() | changes
  if changed['estimator'] == 'multi_fc':
    config.layers = 3
  if changed['optimizer'] == 'adam':
    config.weight_decay = 5e-4
  if protocol == 'paper' and changed['estimator'] == 'ste':
    config.weight_decay = 0.0
  config.update(changes)
  return config


def both_protocols(
  name: str,
  paper_changes: Mapping[str, Any] = MappingProxyType({}),
  **changes: Any,
) -> dict[str, ConfigDict]:
  """Returns a setting by name, or two settings if the protocols differ.

  Args:
    name: Name of the setting; '-fair' and '-paper' are added if there are two.
    paper_changes: Further changes in the protocol 'paper'.
    **changes: Keys of the configuration and their values.
  """
  fair = in_protocol('fair', **changes)
  paper = in_protocol('paper', **changes, **paper_changes)
  if identity(fair.to_dict()) == identity(paper.to_dict()):
    return {name: fair}
  return {f'{name}-fair': fair, f'{name}-paper': paper}
