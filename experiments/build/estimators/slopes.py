"""Rules whose slope depends on where a weight is in its cell.

Schedules span the run, so that a run of any length reaches their ends.
"""

import functools

from experiments.build.estimators.declaration import Estimator
from experiments.build.key import Key
from mq_jax import estimators

_rule = functools.partial(Estimator, reads=(), learned=False, reads_cells=True)


def _temperatures(start: float) -> dict[str, Key]:
  return {
    'start': Key(start, 'T at the start.', above=0),
    'end': Key(10.0, 'T at the end of the run.', above=0),
  }


ESTIMATORS = {
  'ede': _rule(
    lambda keys, context: estimators.ede(context.steps, **keys.rule),
    colour='#56B4E9',
    marker='X',
    options=_temperatures(0.1),
    spans_run=True,
  ),
  'rbnn': _rule(
    lambda keys, context: estimators.rbnn(context.steps, **keys.rule),
    colour='#56B4E9',
    marker='p',
    options=_temperatures(0.01),
    spans_run=True,
  ),
  'reste': _rule(
    lambda keys, context: estimators.reste(context.steps, **keys.rule),
    colour='#56B4E9',
    marker='*',
    options={
      'power': Key(3.0, 'o at the end of the run.', least=1),
      'clip': Key(1.5, 'Distance beyond which the slope is 0.', above=0),
      'secant': Key(
        0.1, 'Distance below which the slope is constant.', above=0
      ),
    },
    spans_run=True,
  ),
  'approx_sign': _rule(
    lambda keys, context: estimators.approx_sign(),
    colour='#CC79A7',
    marker='h',
  ),
  'swish_sign': _rule(
    lambda keys, context: estimators.swish_sign(**keys.rule),
    colour='#CC79A7',
    marker='8',
    options={'beta': Key(5.0, 'Steepness.', above=0)},
  ),
  'stableqat': _rule(
    lambda keys, context: estimators.stableqat(**keys.rule),
    colour='#E69F00',
    marker='<',
    options={
      'amplitude': Key(0.21, 'Amplitude of the series.', least=0, most=0.225)
    },
  ),
  'adaste': _rule(
    lambda keys, context: estimators.adaste(**keys.rule),
    colour='#E69F00',
    marker='>',
    options={
      'largest': Key(0.5, 'Largest slope towards a threshold.', least=0),
      'least_gradient': Key(
        1e-3, 'Size of a gradient below which the slope is 1.', least=0
      ),
    },
  ),
  'ewgs': _rule(
    lambda keys, context: estimators.ewgs(**keys.rule),
    colour='#E69F00',
    marker='d',
    options={'delta': Key(1e-3, 'Factor of the rounding error.', least=0)},
  ),
  'dsq': _rule(
    lambda keys, context: estimators.dsq(**keys.rule),
    colour='#E69F00',
    marker='H',
    options={
      'alpha': Key(
        0.2, 'Distance of the soft level from the level.', least=1e-3, most=0.5
      ),
      'learning_rate': Key(0.0, 'Step size of alpha.', least=0),
    },
  ),
}
