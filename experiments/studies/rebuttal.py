"""The ImageNet table of MetaQuant's author response, and Table 4's last rows.

  python -m experiments.study --study=experiments/studies/rebuttal.py \
    --workdir=runs/rebuttal --data_dir=IMAGENET --pretrained=FOLDER

`FOLDER` holds `resnet18-imagenet.safetensors` and
`mobilenet_v2-imagenet.safetensors`, the weights of torchvision. The response
names no protocol: all rows have that of Table 3. ELQ and TTQ keep the optimizer
and the learning rate of their recipes, and quantize every layer.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs import mobilenet_v2, resnet18
from experiments.configs.methods import load
from experiments.study import Drop, Study

_RESPONSE = 'author response, Table 1'
PUBLISHED = {
  'resnet18-1bit-metaquant': Drop(6.32, _RESPONSE, 4.31),
  'resnet18-1bit-ste': Drop(7.70, _RESPONSE, 5.43),
  'resnet18-1bit-elq': Drop(3.55, _RESPONSE, 2.65),
  'resnet18-2bit-metaquant': Drop(5.17, _RESPONSE, 3.59),
  'resnet18-2bit-ste': Drop(6.29, _RESPONSE, 4.58),
  'resnet18-ternary-ttq': Drop(3.00, _RESPONSE, 2.00),
  'mobilenet_v2-4bit-metaquant': Drop(2.10, _RESPONSE, 0.38),
  'mobilenet_v2-4bit-ste': Drop(3.71, _RESPONSE, 1.89),
}
# The keys of a recipe for CIFAR that the protocol of ImageNet replaces.
_PROTOCOL = (
  *('network', 'dataset', 'epochs', 'last_epochs', 'decay_every', 'decay_at'),
  *('pretrain_epochs', 'batch_size', 'float_layers'),
)


def get_study() -> Study:
  """Returns the settings, each at 30 epochs."""
  settings = {
    f'{name}-{bits}bit-{ours}': get_config(bits=bits, estimator=estimator)
    for name, get_config, bits in (
      ('resnet18', resnet18.get_config, 1),
      ('resnet18', resnet18.get_config, 2),
      ('mobilenet_v2', mobilenet_v2.get_config, 4),
    )
    for ours, estimator in (('metaquant', 'multi_fc'), ('ste', 'ste'))
  }
  settings['resnet18-1bit-elq'] = _recipe('elq', {'levels': 'binary'})
  settings['resnet18-ternary-ttq'] = _recipe('ttq', {})
  return Study(
    'Author response: ImageNet, drops of top-1 and top-5 accuracy',
    settings,
    drops=PUBLISHED,
    figures=False,
  )


def _recipe(name: str, options: dict[str, Any]) -> ConfigDict:
  """Returns a recipe in the protocol of ImageNet."""
  config, protocol = load(name), resnet18.get_config()
  config.update({key: protocol[key] for key in _PROTOCOL})
  config.method.update(options)
  return config
