"""The step size of every backward rule, searched with an equal budget.

  python -m experiments.study --study=experiments/studies/fair_search.py \\
    --workdir=runs/fair_search --results=results --pretrained=FOLDER

Each rule gets the same step sizes, with one seed, twice 195 steps, which is
about half of an epoch, and a test on 5,000 training images that are held out.
`fair.py` compares the rules at the step size that was best for each of them.
All layers have 1 bit (dorefa, whose weights are between −1 and 1 before they
are rounded, which is the scale that the rules assume).
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.study import Study, in_protocol

# Rule to the keys that choose it. A learned rule starts at the straight-through
# rule; the scalars learn one step size per network or per layer.
RULES: dict[str, dict[str, Any]] = {
  'ste': {'estimator': 'ste'},
  'fc_grad': {'estimator': 'fc_grad', 'init': 'identity'},
  'reste': {'estimator': 'reste'},
  'stableqat': {'estimator': 'stableqat'},
  'ede': {'estimator': 'ede'},
  'dsq': {'estimator': 'dsq'},
  'ewgs': {'estimator': 'ewgs', 'rule': {'delta': 0.1}},
  'approx_sign': {'estimator': 'approx_sign'},
  'multi_fc': {'estimator': 'multi_fc', 'init': 'identity'},
  'scalar_per_layer': {
    'estimator': 'fc_grad',
    'layers': 1,
    'init': 'identity',
    'per_layer': True,
  },
  'adaste': {'estimator': 'adaste'},
  'swish_sign': {'estimator': 'swish_sign'},
  'rbnn': {'estimator': 'rbnn'},
}
RATES = {
  'sgd': (0.01, 0.03, 0.1, 0.3, 1.0),
  'adam': (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
HELD_OUT = 5000
# About half of the steps of an epoch without the held-out images.
SEARCH_STEPS = 195
EPOCHS = 2


def setting(
  optimizer: str, rule: str, rate: float, **changes: Any
) -> ConfigDict:
  """Returns one rule at one step size, which falls in the last epoch.

  Args:
    optimizer: 'sgd' or 'adam'.
    rule: Key of `RULES`.
    rate: α.
    **changes: Further keys.
  """
  return in_protocol(
    'fair',
    network='resnet20',
    quantizer='dorefa',
    optimizer=optimizer,
    weight_decay=0.0,
    learning_rate=rate,
    epochs=EPOCHS,
    decay_at=f'{EPOCHS - 1}',
    last_epochs=1,
    **RULES[rule],
    **changes,
  )


def searched(
  optimizer: str, rule: str, rate: float, **changes: Any
) -> ConfigDict:
  """Returns the setting of the search for one rule at one step size."""
  return setting(
    optimizer,
    rule,
    rate,
    holdout=HELD_OUT,
    epoch_steps=SEARCH_STEPS,
    **changes,
  )


def name_of(optimizer: str, rule: str, rate: float) -> str:
  """Returns the name of a setting of the search."""
  return f'{optimizer}-{rule}-{rate:g}'


def get_study() -> Study:
  """Returns one setting per optimizer, rule and step size."""
  return Study(
    'Search for the step size of each rule: accuracy on held-out images',
    {
      name_of(optimizer, rule, rate): searched(optimizer, rule, rate)
      for optimizer, rates in RATES.items()
      for rule in RULES
      for rate in rates
    },
    trials=1,
    figures=False,
  )
