"""A small language model on bytes: ternary weights, 8-bit inputs of layers.

  python -m experiments.lm --config=experiments/configs/gpt.py

Weights and activations are those of BitNet b1.58. The projections of the blocks
are quantized; norms stay in full precision, and so do embedding and head,
unless --config.quantize_ends. Training starts from random weights.
--config.data=FILE names a text; without it, the text is the documentation of
this project.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.build.schema import default_config


def get_config(**changes: Any) -> ConfigDict:
  """Returns the configuration of the language model.

  Args:
    **changes: Values that replace those of this configuration, by key.
  """
  config = default_config()
  config.update(
    network='gpt',
    dataset='text',
    quantizer='absmean',
    estimator='ste',
    activation_quantizer='absmax',
    activation_bits=8,
    pretrain_epochs=0,
    optimizer='adam',
    learning_rate=3e-3,
    schedule='cosine',
    batch_size=32,
    epochs=10,
    last_epochs=1,
    checkpoint_every=50,
  )
  config.update(changes)
  return config
