"""PSGD's tables: weights that are quantized after training, without training.

  python -m experiments.study --study=experiments/studies/psgd.py \
    --workdir=runs/psgd [--only=resnet32] [--pretrained=FOLDER]

Each network of full precision is trained further by PSGD, whose gradients pull
the weights to the grid, or by plain SGD, and is then quantized layer by layer
on that grid. Only weights are quantized. `benchmarks.psgd` quantizes the
networks of two such runs in other ways and prunes them.
"""

from ml_collections import ConfigDict

from experiments.configs.methods import load
from experiments.study import Study

BITS = {'resnet32': (4, 3, 2), 'resnet18': (8, 6, 4, 3, 2)}
DATASETS = {'resnet32': 'cifar100', 'resnet18': 'imagenet'}


def get_study() -> Study:
  """Returns PSGD and SGD for every number of bits."""
  settings: dict[str, ConfigDict] = {}
  for network, all_bits in BITS.items():
    for bits in all_bits:
      for rule, start in (('psgd', 0.0), ('sgd', 1.0)):
        config = load('psgd')
        config.update(network=network, dataset=DATASETS[network], bits=bits)
        # A start of 1 is the end of the run, so that gradients keep their size.
        config.method.start = start
        # The authors use no weight decay for targets of 2 bits.
        config.weight_decay = 0.0 if bits == 2 else config.weight_decay
        settings[f'{network}-w{bits}-{rule}'] = config
  return Study(
    'PSGD: layer-wise quantization after training',
    settings,
    published='psgd',
    paper_mean='',
    figures=False,
  )
