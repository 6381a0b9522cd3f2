"""Checks that the log of a run is complete and that tables can use it."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.build import fingerprint
from experiments.build.schema import KEYS
from experiments.common.errors import InvalidError

# Keys of the configuration that tables read; the others have defaults.
_CONFIG_KEYS = (
  *('network', 'dataset', 'batch_size', 'quantizer', 'bits', 'optimizer'),
  *('estimator', 'layers', 'init', 'learning_rate', 'meta_learning_rate'),
  *('epochs', 'seed'),
)
_EPOCH_KEYS = ('epoch', 'step', 'seconds')  # They are the same in all trials.
_TRIAL_KEYS = ('train_loss', 'test_loss', 'test_accuracy')
_PERCENT = (
  *('train_accuracy', 'test_accuracy', 'test_top5_accuracy'),
  'relaxed_accuracy',
)
_START_PERCENT = ('base_accuracy', 'base_top5_accuracy')
# Numbers that may be null: a test loss that was not finite, and everything that
# belongs to training where nothing is trained.
_NULL = ('test_loss', 'phi_grad_norm')
_NULL_UNTRAINED = (*_NULL, 'train_loss', 'train_accuracy')


class _OddError(Exception):
  """A value is not what a run writes."""


def check_complete(
  path: pathlib.Path, header: Mapping[str, Any], records: Sequence[Any]
) -> None:
  """Refuses the log of a run that is incomplete or has odd values.

  Args:
    path: Path of the log, for the message.
    header: Header of the log. With the key `diverged`, fewer epochs than
      configured are complete; `records`, if present, is their number.
    records: One record per epoch.

  Raises:
    InvalidError: If epochs are missing, or a value is not what a run writes.
  """
  try:
    _check_header(header)
    _check_records(header, records)
  except _OddError as error:
    raise InvalidError(
      f'{path} is incomplete or damaged: {error}. Restore the file from a copy,'
      ' or delete it and add the run again.'
    ) from error


def _check_header(header: Mapping[str, Any]) -> None:
  for name, kind in (
    ('config', dict),
    ('date', str),
    ('device', dict),
    ('versions', dict),
    ('start', dict),
  ):
    if not isinstance(header.get(name), kind):
      raise _OddError(f'{name}={header.get(name)!r} in its first line')
  for place, key in (('device', 'kind'), ('versions', 'jax')):
    if not isinstance(header[place].get(key), str):
      raise _OddError(f'{place}.{key}={header[place].get(key)!r}')
  if not isinstance(header.get('diverged', ''), str):
    raise _OddError(f'diverged={header["diverged"]!r}')
  config = header['config']
  for name in _CONFIG_KEYS:
    if name not in config:
      raise _OddError(f'its configuration has no {name}')
  for name, value in config.items():
    if name in KEYS and not _has_kind(value, name):
      raise _OddError(f'config.{name}={value!r}')
  if config['epochs'] < 0 or config.get('trials', 1) < 1:
    raise _OddError(f'epochs={config["epochs"]}, trials={config.get("trials")}')
  try:
    fingerprint.identity(config)
  except (TypeError, ValueError, AttributeError) as error:
    raise _OddError(f'its configuration is not one ({error})') from error
  start = header['start']
  if not isinstance(start.get('base', ''), str):
    raise _OddError(f'start.base={start["base"]!r}')
  for name in _START_PERCENT:
    if name in start:
      _check_number(start[name], f'start.{name}', True)
  for name in ('s', 'offset'):
    if name in start:
      _check_number(start[name], f'start.{name}')


def _has_kind(value: Any, name: str) -> bool:
  key = KEYS[name]
  if isinstance(value, float) and not math.isfinite(value):
    return False
  if isinstance(key.default, dict):
    return isinstance(value, dict)
  kinds = (int, float) if key.kind is float else (key.kind,)
  return type(value) in kinds or (value is None and key.default is None)


def _check_records(header: Mapping[str, Any], records: Sequence[Any]) -> None:
  config = header['config']
  wanted: Any = config['epochs']
  # A run that only quantizes has one record, of epoch 0.
  first, count = (1, wanted) if wanted else (0, 1)
  if 'diverged' in header:
    count = header.get('records', min(len(records), count))
  if len(records) != count:
    raise _OddError(f'it has the records of {len(records)} of {count} epochs')
  for epoch, record in enumerate(records, start=first):
    place = f'epoch {epoch}'
    for name in _EPOCH_KEYS:
      _check_number(record.get(name), f'{name} of {place}')
    if (record['epoch'], record['step']) != (epoch, epoch * records[0]['step']):
      raise _OddError(
        f'{place} has the number {record["epoch"]} and step {record["step"]}'
      )
    _check_measured(record, place, _NULL if epoch else _NULL_UNTRAINED)
    trials = config.get('trials', 1)
    by_trial = record.get('trials', [])
    # The record of a single trial needs no list.
    counts = (0, 1) if trials == 1 else (trials,)
    if not isinstance(by_trial, list) or len(by_trial) not in counts:
      raise _OddError(f'{place} does not have {trials} trials')
    for seed, trial in enumerate(by_trial, start=config['seed']):
      if not isinstance(trial, dict) or trial.get('seed') != seed:
        raise _OddError(f'{place} has no record of seed {seed}')
      _check_measured(
        trial, f'{place}, seed {seed}', _NULL if epoch else _NULL_UNTRAINED
      )


def _check_measured(
  record: Mapping[str, Any], place: str, null: Sequence[str]
) -> None:
  """Checks the numbers of an epoch, of one trial or the means of all."""
  for name in _TRIAL_KEYS:
    if name not in record:
      raise _OddError(f'{place} has no {name}')
  for name, value in record.items():
    if name == 'trials' or (value is None and name in null):
      continue
    if name in ('flipped', 'saturation') and isinstance(value, dict):
      values = list(value.values())
    elif name == 'histogram' and isinstance(value, list):
      values = value
    else:
      values = [value]
    for number in values:
      _check_number(number, f'{name} of {place}', name in _PERCENT)


def _check_number(value: Any, name: str, is_percent: bool = False) -> None:
  """Refuses a value that is not a finite number, or a percentage above 100."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  try:
    is_good = is_number and math.isfinite(value)
  except OverflowError:
    is_good = False
  if not is_good or (is_percent and not 0 <= value <= 100):
    raise _OddError(f'{name} is {value!r}'[:200])
