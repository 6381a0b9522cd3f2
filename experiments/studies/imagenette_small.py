r"""Ten classes of ImageNet at 96 pixels: a small study of photographs.

  python -m experiments.study --study=experiments/studies/imagenette_small.py \
    --workdir=runs/imagenette --data_dir=IMAGENETTE --pretrained=FOLDER

`IMAGENETTE` has folders `train` and `val` of ten classes. `FOLDER` holds the
full-precision networks `mobilenet_v2-folder.safetensors`, trained further from
TensorFlow's weights of ImageNet, and `resnet18-folder.safetensors`, trained
from random weights. `experiments.pretrain` makes both, each with
`--config.dataset=folder --config.data_dir=IMAGENETTE --config.image_size=96
--config.resize=110 --config.batch_size=64`:

  python -m experiments.pretrain --config=experiments/configs/mobilenet_v2.py \
    --config.padding=same --config.pixels=half --config.new_head=True \
    --config.pretrained=mobilenet_v2_imagenet.npz --config.pretrain_epochs=4
  python -m experiments.pretrain --config=experiments/configs/resnet18.py \
    --config.pretrain_epochs=30

The study is small: some thousand photographs, few epochs. Its drops say how the
rules compare here, and not what they are on ImageNet.
"""

from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import mobilenet_v2, resnet18
from experiments.configs.methods import load
from experiments.study import Study

PHOTOGRAPHS = {'dataset': 'folder', 'image_size': 96, 'resize': 110}
TRAINED = {'epochs': 4, 'decay_at': '3', 'batch_size': 64, 'last_epochs': 1}
# The weights of ImageNet that exist as a small file are from TensorFlow.
MOBILENET = {'padding': 'same', 'pixels': 'half'}
# LAPQ's search computes the loss of these images some two thousand times.
LAPQ_IMAGES = 64
# Rates that all rules are tried with, by network.
RATES = {'mobilenet_v2': ('1e-4', '3e-4'), 'resnet18': ('3e-4', '1e-3')}
# The learned rules start at random, as in the paper, or at the straight-through
# rule.
RULES: dict[str, dict[str, Any]] = {
  'ste': {},
  'multi_fc': {},
  'fc_grad': {},
  'multi_fc-identity': {'init': 'identity'},
  'fc_grad-identity': {'init': 'identity'},
}


def get_study() -> Study:
  """Returns MobileNetV2 at 4 bits, and ResNet18 at 1 bit and 2 bits."""
  settings: dict[str, ConfigDict] = {}
  for network, get_config, bits in (
    ('mobilenet_v2', mobilenet_v2.get_config, 4),
    ('resnet18', resnet18.get_config, 1),
    ('resnet18', resnet18.get_config, 2),
  ):
    for rule, options in RULES.items():
      for rate in RATES[network]:
        settings[f'{network}-{bits}bit-{rule}-{rate}'] = get_config(
          **PHOTOGRAPHS,
          **TRAINED,
          **(MOBILENET if network == 'mobilenet_v2' else {}),
          bits=bits,
          estimator=rule.split('-')[0],
          **options,
          learning_rate=float(rate),
        )
  for quantizer in ('uniform', 'aciq', 'lapq'):
    settings[f'mobilenet_v2-4bit-{quantizer}'] = _recipe(
      quantizer, epochs=0, bits=4, **MOBILENET
    )
  settings['mobilenet_v2-4bit-lapq'].method.images = LAPQ_IMAGES
  settings['mobilenet_v2-4bit-psgd'] = _recipe(
    'psgd', **TRAINED, bits=4, **MOBILENET
  )
  settings['resnet18-ternary-ttq'] = _recipe(
    'ttq', **TRAINED, network='resnet18', learning_rate=1e-2
  )
  return Study(
    'Imagenette at 96 pixels: drops from full precision',
    settings,
    trials=3,
    drops=MappingProxyType({}),
    figures=False,
  )


def _recipe(quantizer: str, **changes: Any) -> ConfigDict:
  """Returns the recipe of a method, by default for MobileNetV2."""
  config = load(quantizer)
  same = {'network': 'mobilenet_v2', 'float_layers': '', **PHOTOGRAPHS}
  config.update(same | changes)
  return config
