"""ResNet20 on CIFAR-10 at 1 bit: the protocol of MetaQuant's Table 1.

  python -m experiments.cifar --config=experiments/configs/resnet20.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Any value can be overridden on the command line, such as
`--config.quantizer=bwn --config.estimator=lstm_fc --config.optimizer=adam
--config.seed=3`; `python -m experiments.cifar --help` lists all keys. Without
`pretrained` the command first trains a full-precision base model, for
`pretrain_epochs` epochs.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.build.schema import default_config


def get_config(**changes: Any) -> ConfigDict:
  """Returns the configuration of this protocol.

  Args:
    **changes: Values that replace those of the default configuration, by key.
  """
  config = default_config()
  config.update(changes)
  return config
