"""The table of runs of one epoch from a pretrained network."""

from collections.abc import Callable, Sequence
from typing import Any

from experiments.build.base_model import START_KEYS
from experiments.build.estimators import ESTIMATORS
from experiments.build.fingerprint import identity
from experiments.build.schema import KEYS, default_config
from experiments.common.markdown import Table
from experiments.records import ledger
from experiments.report.tables import join_conditions


def _forward(run: ledger.Run) -> str:
  config = run.header['config']
  if config['quantizer'] == 'dorefa':
    return f'dorefa({config["bits"]})'
  return str(config['quantizer'])


def _backward(run: ledger.Run) -> str:
  config = run.header['config']
  words = [config['estimator']]
  # The code that declares an estimator may be elsewhere.
  declared = ESTIMATORS.get(config['estimator'])
  if (
    declared
    and 'layers' in declared.reads
    and config['layers'] != KEYS['layers'].default
  ):
    words.append(f'{config["layers"]} layers')
  if config['init'] != KEYS['init'].default:
    words.append(f'init={config["init"]}')
  return ', '.join(words)


def _factor(values: dict[str, Any]) -> str:
  if 's' not in values:
    return ''
  offset = f', offset {values["offset"]:.2f}' if 'offset' in values else ''
  return f'{values["s"]:+.2f}{offset}'


# Text of each column, and the keys that it shows: runs may differ from the
# default configuration in these keys only.
_COLUMNS: dict[str, tuple[Callable[[ledger.Run], str], tuple[str, ...]]] = {
  'forward': (_forward, ('quantizer', 'bits')),
  'backward': (_backward, ('estimator', 'layers', 'init')),
  'optimizer': (lambda run: run.header['config']['optimizer'], ('optimizer',)),
  'α': (
    lambda run: f'{run.header["config"]["learning_rate"]:g}',
    ('learning_rate',),
  ),
  'seed': (lambda run: str(run.header['config']['seed']), ('seed',)),
  's at start': (lambda run: _factor(run.header['start']), ()),
  's at end': (lambda run: _factor(run.records[-1]), ()),
  'train loss': (lambda run: f'{run.records[-1]["train_loss"]:.3f}', ()),
  'test accuracy': (
    lambda run: f'{run.records[-1]["test_accuracy"]:.2f} %',
    (),
  ),
  'run': (lambda run: f'`{run.name}`', ()),
}


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
    tuple(_COLUMNS),
    [
      [text(run) for text, _ in _COLUMNS.values()]
      for run in sorted(chosen, key=_order)
    ],
    _note(chosen),
  )


def _is_first_epoch(config: dict[str, Any]) -> bool:
  shown = {key: config[key] for _, keys in _COLUMNS.values() for key in keys}
  expected = default_config().to_dict() | shown | {'epochs': 1}
  texts = {
    identity(values, without=START_KEYS) for values in (config, expected)
  }
  return config.get('trials', 1) == 1 and len(texts) == 1


def _order(run: ledger.Run) -> Any:
  config = run.header['config']
  return (
    config['quantizer'],
    config['optimizer'],
    config['estimator'] != 'ste',
    run.name,
  )


def _note(runs: Sequence[ledger.Run]) -> str:
  configs = [run.header['config'] for run in runs]
  values = {
    'network': [config['network'] for config in configs],
    'dataset': [config['dataset'] for config in configs],
    'batch size': [config['batch_size'] for config in configs],
    'γ': [config['meta_learning_rate'] for config in configs],
    'full precision': [
      f'{run.header["start"]["base_accuracy"]:.2f} %' for run in runs
    ],
    'device': [run.header['device']['kind'] for run in runs],
    'jax': [run.header['versions']['jax'] for run in runs],
  }
  return f'One epoch, one trial per row; {join_conditions(values)}.'
