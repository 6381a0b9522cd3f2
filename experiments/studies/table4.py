"""MetaQuant's Table 4: drops from full precision, beside methods without STE.

  python -m experiments.study --study=experiments/studies/table4.py \
    --workdir=runs/table4 --pretrained=FOLDER

All methods get the same networks, epochs and batches, start from the same
trained network and quantize every layer; optimizer and learning rate are those
of their own recipes, and the rate falls to a tenth at the same epochs. FOLDER
needs `labnet-cifar10.safetensors` too, or --only=resnet:

  python -m experiments.pretrain --config.network=labnet \
    --config.head_norm=True --config.loss=squared_hinge
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe
from experiments.settings import Study, in_protocol

LONG = {'epochs': 100, 'decay_at': '30 60 90'}
# A whole training in small, for two CPU cores.
SHORT = {'epochs': 2, 'decay_at': '1'}
_MOMENTUM = {'optimizer': 'momentum', 'weight_decay': 1e-4}
_ADAM = {'optimizer': 'adam'}
# Setting to quantizer and what else its recipe has, by the number of bits.
OTHERS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
  '1bit': {
    'proxquant': ('proxquant', {'learning_rate': 1e-2, **_ADAM}),
    'lab': ('lab', {'learning_rate': 1e-2, **_ADAM}),
    'slb': (
      'slb',
      {'learning_rate': 0.1, 'recalibrate': 20, **_MOMENTUM},
    ),
    'lq_nets': ('lq_nets', {'learning_rate': 0.02, **_MOMENTUM}),
  },
  'ternary': {
    'ttq': ('ttq', {'learning_rate': 0.1, **_MOMENTUM}),
    'proxquant': (
      'proxquant',
      {
        'learning_rate': 1e-2,
        'method': {'levels': 'ternary', 'prox': 'l2', 'pull': 31.3},
        **_ADAM,
      },
    ),
  },
  '2bit': {
    'slb': (
      'slb',
      {'bits': 2, 'learning_rate': 0.1, 'recalibrate': 20, **_MOMENTUM},
    ),
    'lq_nets': ('lq_nets', {'bits': 2, 'learning_rate': 0.02, **_MOMENTUM}),
  },
  '4bit': {
    'psgd': (
      'psgd',
      {
        'bits': 4,
        'learning_rate': 1e-2,
        'method': {'start': 0.0},
        **_MOMENTUM,
      },
    ),
  },
}
_BITS = {'1bit': 1, '2bit': 2, '4bit': 4}
_TABLE = 'MetaQuant, Table 4'
PUBLISHED = {
  'resnet20-1bit-metaquant': (0.70, _TABLE),
  'resnet20-1bit-proxquant': (1.29, _TABLE),
  'resnet32-1bit-metaquant': (0.39, _TABLE),
  'resnet32-1bit-proxquant': (1.28, _TABLE),
  'resnet44-1bit-metaquant': (0.08, _TABLE),
  'resnet44-1bit-proxquant': (0.99, _TABLE),
  'labnet-1bit-lab': (1.40, _TABLE),
  'labnet-1bit-metaquant': (-0.20, _TABLE),
  'resnet20-ternary-ttq': (0.64, "TTQ's code"),
}


def get_study() -> Study:
  """A hundred epochs."""
  return Study('Table 4: drops at equal epochs', grid(LONG), drops=PUBLISHED)


def grid(length: dict[str, Any]) -> dict[str, ConfigDict]:
  """All settings, of one length."""
  settings: dict[str, ConfigDict] = {}
  for bits, others in OTHERS.items():
    settings |= _ours('resnet20', bits, length)
    for name, (quantizer, changes) in others.items():
      settings[f'resnet20-{bits}-{name}'] = recipe(
        quantizer, **changes, **length
      )
  for network, name in (
    ('resnet32', 'proxquant'),
    ('resnet44', 'proxquant'),
    ('labnet', 'lab'),
  ):
    own: dict[str, Any] = {'network': network}
    if network == 'labnet':
      own |= {'head_norm': True, 'loss': 'squared_hinge'}
    settings |= _ours(network, '1bit', length | own)
    quantizer, changes = OTHERS['1bit'][name]
    settings[f'{network}-1bit-{name}'] = recipe(
      quantizer, **changes, **length, **own
    )
  return settings


def _ours(
  network: str, bits: str, changes: dict[str, Any]
) -> dict[str, ConfigDict]:
  """Straight-through and MetaQuant under Adam, the paper's better optimizer."""
  if bits not in _BITS:
    return {}
  return {
    f'{network}-{bits}-{name}': in_protocol(
      'fair',
      **_ADAM,
      bits=_BITS[bits],
      estimator=estimator,
      **changes,
    )
    for name, estimator in (('ste', 'ste'), ('metaquant', 'multi_fc'))
  }
