"""SLB's tables: VGG-Small, ResNet20 and ResNet18, and ablations of its parts.

  python -m experiments.study --study=experiments/studies/slb.py \
    --workdir=runs/slb [--only=vgg_small]

W/A means the bits of weights and activations; 32 is full precision. Every
network starts from random weights, and its first and last layer keep full
precision. Two parts are left out, one at a time: the temperature schedule
(the inverse temperature is constant) and State Batch Norm (the statistics are
those of training). One setting has three restarts of the temperature.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs.methods import load
from experiments.study import Study

_RESNET20 = ('1/1', '1/2', '1/32', '2/2', '2/4', '2/32', '4/4', '4/32')
_RESNET18 = (
  *('1/1', '1/2', '1/4', '1/8', '1/32', '2/2', '2/4', '2/8', '2/32'),
)
# The author response: Adam, 120 epochs, one temperature schedule.
_IMAGENET: dict[str, Any] = {
  'network': 'resnet18',
  'dataset': 'imagenet',
  'optimizer': 'adam',
  'learning_rate': 1e-3,
  'weight_decay': 0.0,
  'decay_at': '70 90 110',
  'batch_size': 256,
  'epochs': 120,
}


def get_study() -> Study:
  """Returns all settings."""
  settings: dict[str, ConfigDict] = {}
  for bits in ('1/1', '2/2', '4/4'):
    name = f'vgg_small-{_named(bits)}'
    settings[name] = _config('slb_vgg', bits)
    settings[f'{name}-constant'] = _config(
      'slb_vgg', bits, {'first': 10.0, 'last': 10.0}
    )
    settings[f'{name}-no_sbn'] = _config('slb_vgg', bits, recalibrate=0)
  settings['vgg_small-w1a1-restarts'] = _config('slb_vgg', '1/1', {'cycles': 3})
  for bits in _RESNET20:
    settings[f'resnet20-{_named(bits)}'] = _config('slb', bits, clipped='pact')
  for bits in _RESNET18:
    settings[f'resnet18-{_named(bits)}'] = _config(
      'slb', bits, {'window': '0 1'}, clipped='pact', **_IMAGENET
    )
  return Study(
    'SLB: bits of weights and activations',
    settings,
    published='slb',
    paper_mean='',
    figures=False,
  )


def _named(bits: str) -> str:
  """Returns w1a2 for 1/2."""
  return 'w{}a{}'.format(*bits.split('/'))


def _config(
  recipe: str,
  bits: str,
  options: dict[str, Any] | None = None,
  clipped: str = 'dorefa',
  **changes: Any,
) -> ConfigDict:
  """Returns a recipe with bits of weights and activations.

  Args:
    recipe: Name of the recipe.
    bits: Bits of weights and activations, such as '1/2'.
    options: Options of the method.
    clipped: Quantizer of activations of 2 bits or more.
    **changes: Further keys of the configuration.
  """
  weights, activations = bits.split('/')
  config = load(recipe)
  config.update(bits=int(weights), activation_quantizer='relu', **changes)
  if activations == '1':
    config.activation_quantizer = 'sign'
  elif activations != '32':
    config.activation_quantizer = clipped
    config.activation_bits = int(activations)
  config.method.update(options or {})
  return config
