"""Studies: which configurations belong together, and under which protocol.

A study is a dict from a name to a configuration. Runs are told apart by what
they compute, never by a name: two studies that hold the same configuration
share its runs.
"""

import functools
import importlib.util
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.build import check, method_options
from experiments.common.errors import InvalidError, MissingError
from experiments.configs import resnet20

PROTOCOLS = ('paper', 'fair')
# What changes no number of a run, or is no part of a setting.
APART = ('seed', 'trials', 'data_dir', 'mesh_data', 'chunk', 'checkpoint_every')
# What only a run that trains reads.
TRAINING = (
  *('optimizer', 'eps_root', 'weight_decay', 'learning_rate', 'reapply'),
  *('decay_every', 'decay_at', 'decay_factor', 'batch_size', 'augment'),
  'epoch_steps',
)
NAME = re.compile(r'[\w.+-]+')  # of a setting: part of a file's name

_LEARNED = tuple(name for name in check.CHOICES['estimator'] if name != 'ste')
_STACKS = ('fc_grad', 'multi_fc')
_QUANTIZED = tuple(name for name in method_options.OPTIONS if name != 'none')
# Keys that not every run reads: on what that depends, and who reads them.
READ_BY: dict[str, tuple[str, tuple[str | None, ...]]] = {
  'hidden': ('estimator', _LEARNED),
  'layers': ('estimator', _STACKS),
  'estimator_activation': ('estimator', _STACKS),
  'init': ('estimator', (*_STACKS, 'lstm_fc', 'kernel_wise')),
  'carry': ('estimator', ('lstm_fc',)),
  'memory_dtype': ('estimator', ('lstm_fc',)),
  'features': ('estimator', ('feature_fc',)),
  'progress_epochs': ('estimator', ('feature_fc',)),
  'per_layer': ('estimator', _LEARNED),
  'slim': ('estimator', _LEARNED),
  'phi_cotangent': ('estimator', _LEARNED),
  'differentiate_refinement': ('estimator', _LEARNED),
  'meta_learning_rate': ('estimator', _LEARNED),
  'meta_optimizer': ('estimator', _LEARNED),
  'meta_decay_every': ('estimator', _LEARNED),
  'meta_every': ('estimator', _LEARNED),
  'meta_stop': ('estimator', _LEARNED),
  'bits': ('quantizer', method_options.WITH_BITS),
  'per_channel': ('quantizer', ('bwn', 'aciq')),
  'scaled_gradient': ('quantizer', ('bwn',)),
  'clip': ('quantizer', ('dorefa', 'bwn')),
  'float_layers': ('quantizer', _QUANTIZED),
  'reapply': ('quantizer', _QUANTIZED),
  'activation_bits': (
    'activation_quantizer',
    ('dorefa', 'hwgq', 'pact', 'lsq'),
  ),
  'eps_root': ('optimizer', ('adam', 'adamw')),
}


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
      check.check(config)
    except check.ConfigError as error:
      raise check.ConfigError(f'{name} in {path}: {error}') from error
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
  config = resnet20.get_config()
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


def identity(config: dict[str, Any], *, without: Iterable[str] = ()) -> str:
  """What two runs share if and only if they differ in their seeds alone.

  Args:
    config: The whole configuration, also one that was read from a log.
    without: Further keys that are not to count.

  Returns:
    JSON. Keys that such a run does not read are left out; those that the
    configuration lacks, because it is older than they are, have their defaults;
    a base model counts by the name of its file.
  """
  defaults = _defaults()
  whole = defaults | {
    key: float(value) if isinstance(defaults.get(key), float) else value
    for key, value in config.items()
  }
  method = method_options.OPTIONS[whole['quantizer']]
  whole['method'] = method | {
    key: float(value) if isinstance(method.get(key), float) else value
    for key, value in whole['method'].items()
  }
  whole['pretrained'] = pathlib.PurePath(whole['pretrained']).name
  unread = [
    key for key, (on, values) in READ_BY.items() if whole[on] not in values
  ]
  if whole['pretrained']:
    unread.append('pretrain_epochs')
  if whole['decay_at']:
    unread.append('decay_every')
  if not whole['epochs']:
    unread += TRAINING
  apart = (*APART, *unread, *without)
  kept = {k: v for k, v in whole.items() if k not in apart}
  return json.dumps(kept, sort_keys=True)


@functools.cache
def _defaults() -> dict[str, Any]:
  defaults: dict[str, Any] = resnet20.get_config().to_dict()
  return defaults
