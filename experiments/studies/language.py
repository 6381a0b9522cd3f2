"""Bits per byte of language models: bits of the weights, and backward rules.

  python -m experiments.study --study=experiments/studies/language.py \\
    --workdir=runs/language

Every setting is tried at each of its step sizes, from random weights, on the
text `tinyshakespeare.txt` in the folder of the command. Activations have full
precision, so that only the weights differ. The network is small: the three
trials of a setting take about three minutes on two cores.
"""

from typing import Any

from experiments.configs import gpt
from experiments.study import Study

RATES = (1e-3, 3e-3, 1e-2)
# A rule whose best of RATES is the smallest or the largest has one more, so
# that its best is between two others.
BEYOND = {
  '1bit-fc_grad': 3e-4,
  '2bit-fc_grad': 3e-4,
  '4bit-ste': 3e-4,
  '4bit-dsq': 3e-4,
  '4bit_lsq-ste': 3e-4,
  '4bit_lsq-fc_grad': 3e-4,
  '4bit_lsq-dsq': 3e-4,
  '4bit-multi_fc': 3e-2,
}
FORWARD: dict[str, dict[str, Any]] = {
  '1bit': {'quantizer': 'bwn'},
  'ternary': {'quantizer': 'absmean'},
  '2bit': {'quantizer': 'seq'},
  '4bit': {'quantizer': 'dorefa', 'bits': 4},
  '4bit_lsq': {'quantizer': 'lsq', 'bits': 4},
}
# A learned rule starts at the straight-through rule.
BACKWARD: dict[str, dict[str, Any]] = {
  'ste': {'estimator': 'ste'},
  'fc_grad': {'estimator': 'fc_grad', 'init': 'identity'},
  'multi_fc': {'estimator': 'multi_fc', 'init': 'identity'},
  'dsq': {'estimator': 'dsq'},
}
# The best rule of `fair.py` has one threshold, as binary weights have.
OTHERS: dict[str, dict[str, dict[str, Any]]] = {
  '1bit': {'swish_sign': {'estimator': 'swish_sign'}}
}
COMMON: dict[str, Any] = {
  'data': 'tinyshakespeare.txt',
  'activation_quantizer': 'relu',
  'activation_bits': 2,
  'embed_dim': 64,
  'depth': 2,
  'context': 64,
  'batch_size': 16,
  'epochs': 2,
}
FULL = {'quantizer': 'none', 'estimator': 'ste'}


def rules() -> dict[str, dict[str, Any]]:
  """Returns the options of each forward and backward rule."""
  return {
    f'{forward}-{backward}': quantizer | estimator
    for forward, quantizer in FORWARD.items()
    for backward, estimator in (BACKWARD | OTHERS.get(forward, {})).items()
  }


def get_study() -> Study:
  """Returns one setting per forward rule, backward rule and step size."""
  settings = {
    f'full-{rate:g}': gpt.get_config(learning_rate=rate, **COMMON, **FULL)
    for rate in RATES
  }
  for name, rule in rules().items():
    beyond = [BEYOND[name]] if name in BEYOND else []
    for rate in sorted([*RATES, *beyond]):
      settings[f'{name}-{rate:g}'] = gpt.get_config(
        learning_rate=rate, **COMMON, **rule
      )
  return Study(
    'Language models: bits per byte of the test',
    settings,
    trials=3,
    figures=False,
    tuned=True,
  )
