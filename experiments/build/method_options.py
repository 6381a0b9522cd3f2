"""What only one method reads: names, defaults, and the checks of values.

`config.method` holds it; whatever is missing there has the value given here.
Times are shares of the run, so that a run of any length goes through the whole
of it.
"""

from typing import Any

from ml_collections import ConfigDict

# INQ's portions, by bits.
PORTIONS = {
  5: '0.5 0.75 0.875 1',
  4: '0.3 0.5 0.8 0.9 0.95 1',
  3: '0.2 0.4 0.6 0.7 0.8 0.9 0.95 1',
  2: '0.2 0.4 0.6 0.7 0.8 0.85 0.9 0.95 0.975 1',
}
OPTIONS: dict[str, dict[str, Any]] = {
  'none': {},
  'dorefa': {},
  'bwn': {},
  'binary': {},
  'twn': {'threshold': 0.7},
  'ttq': {'threshold': 0.05},
  'lsq': {},
  'lab': {'decay': 0.999},
  'lq_nets': {'decay': 0.9},
  # `pull` is the sum of all strengths, which rise in proportion to time.
  'proxquant': {
    'levels': 'binary',  # ternary
    'prox': 'l1',  # l2
    'pull': 7.8,
    'freeze': 2 / 3,
  },
  # λ rises by a constant factor, and is infinite from `hard` on.
  'binary_relax': {
    'levels': 'binary',  # ternary
    'first': 1.0,
    'last': 565.0,
    'hard': 0.8,
  },
  'inq': {'portions': ''},  # '': those published
  'elq': {
    'levels': 'ternary',  # binary
    'portions': PORTIONS[2],
    'perturbation': 0.1,
    'approximation': 1e-3,
  },
  'admm': {'levels': '-1 0 1', 'rho': 1e-3, 'rounds': 50},
  'psgd': {
    'strength': 150.0,
    'epsilon': 0.0,
    'normalised': False,
    'start': 0.55,
    'target': 'grid',  # zero
  },
  'slb': {
    'kind': 'exp',  # linear, cos, multiplicative: exp, epoch by epoch
    'first': 0.01,
    'last': 10.0,
    'window': '0 1',
    'cycles': 1,
    'sharpness': 1.0,
    'freeze': False,  # at the end of the window
  },
  'uniform': {},
  'aciq': {'prior': 'laplace', 'corrected': True},  # normal, range
  'lapq': {'corrected': True, 'sweeps': 1, 'images': 512},
}
# Those of which `config.bits` says something; the others have their own number.
WITH_BITS = (
  *('dorefa', 'lsq', 'lq_nets', 'inq', 'psgd', 'slb', 'uniform', 'aciq'),
  'lapq',
)
AFTER_TRAINING = ('aciq', 'lapq')


def options(config: ConfigDict) -> ConfigDict:
  """`config.method`, with defaults where it says nothing.

  Raises:
    ValueError: If it says something that the method does not read, or of
      another type.
  """
  known = OPTIONS[config.quantizer]
  for name, value in config.method.items():
    if name not in known:
      raise ValueError(
        f'config.method.{name} is unknown to config.quantizer='
        f'{config.quantizer!r}, which reads {sorted(known) or "none"}'
      )
    kinds = (int, float) if isinstance(known[name], float) else ()
    if type(value) not in (*kinds, type(known[name])):
      raise ValueError(
        f'config.method.{name}={value!r} must be of'
        f' {type(known[name]).__name__}'
      )
  return ConfigDict(known | config.method.to_dict())


def chosen(choices: dict[str, Any], own: ConfigDict, name: str) -> Any:
  """What an option names, of these; raises `ValueError` if none."""
  if own[name] not in choices:
    raise ValueError(
      f'config.method.{name}={own[name]!r} must be one of {tuple(choices)}'
    )
  return choices[own[name]]


def share(own: ConfigDict, name: str) -> float:
  """An option from 0 to 1; raises `ValueError` if it is none."""
  if not 0 <= own[name] <= 1:
    raise ValueError(
      f'config.method.{name}={own[name]!r} is a share of the run, 0 to 1'
    )
  value: float = own[name]
  return value


def numbers(own: ConfigDict, name: str) -> list[float]:
  """An option of several numbers; raises `ValueError` if it is none."""
  try:
    return [float(number) for number in own[name].split()]
  except ValueError as error:
    raise ValueError(
      f'config.method.{name}={own[name]!r} must be numbers with blanks between'
    ) from error
