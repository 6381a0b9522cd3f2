"""The table of runs of one epoch from a pretrained network."""

from collections.abc import Sequence
from typing import Any

from experiments.build.fingerprint import identity
from experiments.build.schema import default_config
from experiments.common.markdown import Table
from experiments.records import ledger

# Keys in which a run may differ from the default configuration.
_SHOWN = (
  'quantizer',
  'bits',
  'estimator',
  'layers',
  'init',
  'optimizer',
  'learning_rate',
)

_COLUMNS = (
  'forward',
  'backward',
  'optimizer',
  'α',
  'seed',
  's at start',
  's at end',
  'train loss',
  'test accuracy',
  'run',
)


def first_epoch_table(runs: Sequence[ledger.Run]) -> Table:
  """Returns one row per run of one epoch with an otherwise default config."""
  chosen = [
    run
    for run in runs
    if _is_first_epoch(run.header['config'])
    and run.records
    and 'base_accuracy' in run.header['start']
  ]
  return Table(
    'first-epoch',
    'One epoch from a pretrained network',
    _COLUMNS,
    [_row(run) for run in sorted(chosen, key=_order)],
    _conditions(chosen),
  )


def _is_first_epoch(config: dict[str, Any]) -> bool:
  default = default_config().to_dict()
  shown = {key: config[key] for key in _SHOWN}
  apart = ('pretrained', 'pretrain_epochs')
  return config.get('trials', 1) == 1 and (
    identity(config, without=apart)
    == identity(default | shown | {'epochs': 1}, without=apart)
  )


def _order(run: ledger.Run) -> Any:
  config = run.header['config']
  return (
    config['quantizer'],
    config['optimizer'],
    config['estimator'] != 'ste',
    run.name,
  )


def _row(run: ledger.Run) -> list[str]:
  config, start = run.header['config'], run.header['start']
  last = run.records[-1]
  return [
    _forward(config),
    _backward(config),
    config['optimizer'],
    f'{config["learning_rate"]:g}',
    str(config['seed']),
    _factor(start),
    _factor(last),
    f'{last["train_loss"]:.3f}',
    f'{last["test_accuracy"]:.2f} %',
    f'`{run.name}`',
  ]


def _forward(config: dict[str, Any]) -> str:
  if config['quantizer'] == 'dorefa':
    return f'dorefa({config["bits"]})'
  return str(config['quantizer'])


def _backward(config: dict[str, Any]) -> str:
  words = [config['estimator']]
  if config['estimator'] in ('fc_grad', 'multi_fc') and config['layers'] != 2:
    words.append(f'{config["layers"]} layers')
  if config['init'] != 'random':
    words.append(f'init={config["init"]}')
  return ', '.join(words)


def _factor(values: dict[str, Any]) -> str:
  if 's' not in values:
    return ''
  offset = f', offset {values["offset"]:.2f}' if 'offset' in values else ''
  return f'{values["s"]:+.2f}{offset}'


def _conditions(runs: Sequence[ledger.Run]) -> str:
  """Returns the conditions of all runs, each value once."""
  described = {
    'network': {run.header['config']['network'] for run in runs},
    'dataset': {run.header['config']['dataset'] for run in runs},
    'batch size': {run.header['config']['batch_size'] for run in runs},
    'γ': {run.header['config']['meta_learning_rate'] for run in runs},
    'full precision': {
      f'{run.header["start"]["base_accuracy"]:.2f} %' for run in runs
    },
    'device': {run.header['device']['kind'] for run in runs},
    'jax': {run.header['versions']['jax'] for run in runs},
  }
  parts = [
    f'{name} {", ".join(map(str, sorted(values)))}'
    for name, values in described.items()
  ]
  return f'One epoch, one trial per row; {"; ".join(parts)}.'
