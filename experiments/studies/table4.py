"""MetaQuant's Table 4: drops from full precision, beside methods without STE.

  python -m experiments.study --study=experiments/studies/table4.py \
    --workdir=runs/table4 --pretrained=FOLDER

All methods use the same networks, epochs and batches, start from the same
trained network and quantize every layer. Each method keeps the optimizer and
the learning rate of its recipe; the rate falls to a tenth at the same epochs.
Without --only=resnet, FOLDER also needs `labnet-cifar10.safetensors`:

  python -m experiments.pretrain --config.network=labnet \
    --config.head_norm=True --config.loss=squared_hinge
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs.methods import load
from experiments.study import Drop, Study, in_protocol

LONG = {'epochs': 100, 'decay_at': '30 60 90'}
# A short complete training, for two CPU cores.
SHORT = {'epochs': 2, 'decay_at': '1'}
# Recipe of each setting, and the changes made to it.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
  'resnet20-1bit-proxquant': ('proxquant', {}),
  'resnet20-1bit-lab': ('lab', {}),
  'resnet20-1bit-slb': ('slb', {}),
  'resnet20-1bit-lq_nets': ('lq_nets', {'bits': 1}),
  'resnet20-ternary-ttq': ('ttq', {}),
  'resnet20-ternary-proxquant': ('proxquant_ternary', {}),
  'resnet20-2bit-slb': ('slb', {'bits': 2}),
  'resnet20-2bit-lq_nets': ('lq_nets', {}),
  'resnet20-4bit-psgd': ('psgd', {}),
  'resnet32-1bit-proxquant': ('proxquant', {}),
  'resnet44-1bit-proxquant': ('proxquant', {}),
  'labnet-1bit-lab': ('lab', {}),
}
# Keys that differ between recipes and must be equal in a comparison.
_EQUAL = {
  'float_layers': '',
  'pretrain_epochs': 164,
  'holdout': 0,
  'head_norm': False,
  'loss': 'cross_entropy',
  'augment': True,
  'batch_size': 128,
  'decay_factor': 0.1,
}
_BITS = {'1bit': 1, '2bit': 2, '4bit': 4}
_TABLE = 'MetaQuant, Table 4'
PUBLISHED = {
  'resnet20-1bit-metaquant': Drop(0.70, _TABLE),
  'resnet20-1bit-proxquant': Drop(1.29, _TABLE),
  'resnet32-1bit-metaquant': Drop(0.39, _TABLE),
  'resnet32-1bit-proxquant': Drop(1.28, _TABLE),
  'resnet44-1bit-metaquant': Drop(0.08, _TABLE),
  'resnet44-1bit-proxquant': Drop(0.99, _TABLE),
  'labnet-1bit-lab': Drop(1.40, _TABLE),
  'labnet-1bit-metaquant': Drop(-0.20, _TABLE),
  'resnet20-ternary-ttq': Drop(0.64, "TTQ's code"),
}


def get_study() -> Study:
  """Returns the settings at 100 epochs."""
  return Study(
    'Table 4: drops at equal epochs',
    grid(LONG),
    drops=PUBLISHED,
    figures=False,
  )


def grid(length: dict[str, Any]) -> dict[str, ConfigDict]:
  """Returns all settings, with the epochs and the schedule of `length`."""
  settings: dict[str, ConfigDict] = {}
  for name, (recipe, changes) in OTHERS.items():
    network, bits, _ = name.split('-')
    same = {'network': network, **length}
    if network == 'labnet':
      same |= {'head_norm': True, 'loss': 'squared_hinge'}
    if bits in _BITS:
      # Adam is the better optimizer of the paper.
      settings |= {
        f'{network}-{bits}-{ours}': in_protocol(
          'fair', optimizer='adam', bits=_BITS[bits], estimator=rule, **same
        )
        for ours, rule in (('ste', 'ste'), ('metaquant', 'multi_fc'))
      }
    config = load(recipe)
    config.update(_EQUAL | same | changes)
    settings[name] = config
  return settings
