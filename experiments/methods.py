"""From a configuration to the parts of a train step that a method is made of.

`OPTIONS` names the methods and what only one of them reads, which stands in
`config.method`; whatever is missing there has the value given here. Times are
shares of the run, so that a run of any length goes through the whole of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

import mq_jax
from experiments import optimizers
from mq_jax import methods, selection

Rules = selection.Rules
Transformation = Callable[[Rules], optax.GradientTransformation]

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


class Method(NamedTuple):
  """What a method is made of.

  Attributes:
    quantizer: Of each leaf.
    refine: Rules to what stands first in π.
    finish: Rules to what is done to a move last.
  """

  quantizer: mq_jax.Quantizer
  refine: Transformation | None = None
  finish: Transformation | None = None


class _Run(NamedTuple):
  """What methods are made from.

  Attributes:
    config: All of it.
    own: `options` of it.
    steps: Updates in all, at least 1.
    steps_per_epoch: Updates.
  """

  config: ConfigDict
  own: ConfigDict
  steps: int
  steps_per_epoch: int


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


def make(config: ConfigDict, steps_per_epoch: int) -> Method:
  """The parts of the method that `config.quantizer` names.

  Raises:
    ValueError: If an option is unknown or out of range.
  """
  steps = max(1, config.epochs * steps_per_epoch)
  return _MAKE[config.quantizer](
    _Run(config, options(config), steps, steps_per_epoch)
  )


def is_relaxed(config: ConfigDict) -> bool:
  """Whether the loss sees other weights than those that stand at the end."""
  if config.quantizer == 'none':
    return False
  return make(config, 1).quantizer.relaxed is not None


def _dorefa(run: _Run) -> Method:
  return Method(
    mq_jax.dorefa(bits=run.config.bits, clip=run.config.clip or None)
  )


def _bwn(run: _Run) -> Method:
  return Method(
    mq_jax.bwn(
      per_channel=run.config.per_channel,
      clip=run.config.clip or None,
      scaled_gradient=run.config.scaled_gradient,
    )
  )


def _binary(run: _Run) -> Method:
  del run
  return Method(methods.binary(), finish=methods.clipped)


def _twn(run: _Run) -> Method:
  return Method(methods.twn(run.own.threshold))


def _scales(run: _Run) -> optax.GradientTransformation:
  """Scales are trained as the weights are."""
  return optax.chain(
    optimizers.refine(run.config),
    optax.scale_by_learning_rate(
      optimizers.learning_rate(run.config, run.steps_per_epoch)
    ),
  )


def _ttq(run: _Run) -> Method:
  return Method(methods.ttq(run.own.threshold, _scales(run)))


def _lsq(run: _Run) -> Method:
  return Method(methods.lsq(run.config.bits, _scales(run)))


def _lab(run: _Run) -> Method:
  return Method(methods.lab(run.own.decay), finish=methods.clipped)


def _lq_nets(run: _Run) -> Method:
  return Method(methods.lq_nets(run.config.bits, run.own.decay))


def _chosen(choices: dict[str, Any], own: ConfigDict, name: str) -> Any:
  if own[name] not in choices:
    raise ValueError(
      f'config.method.{name}={own[name]!r} must be one of {tuple(choices)}'
    )
  return choices[own[name]]


def _share(own: ConfigDict, name: str) -> float:
  if not 0 <= own[name] <= 1:
    raise ValueError(
      f'config.method.{name}={own[name]!r} is a share of the run, 0 to 1'
    )
  share: float = own[name]
  return share


def _proxquant(run: _Run) -> Method:
  levels = {
    'binary': methods.binary,
    'ternary': lambda: methods.twn(two_scales=True),
  }
  prox = _chosen(
    {'l1': methods.prox_l1, 'l2': methods.prox_l2}, run.own, 'prox'
  )
  if not 0 <= run.own.pull < float('inf'):
    raise ValueError(
      f'config.method.pull={run.own.pull!r} must be at least 0 and finite'
    )
  freeze = max(1, round(_share(run.own, 'freeze') * run.steps))
  rise = 2 * run.own.pull / freeze**2

  def finish(rules: Rules) -> optax.GradientTransformation:
    return optax.chain(
      methods.proximal(rules, lambda updates: rise * updates, prox),
      methods.clipped(rules),
      methods.incremental(rules, (1.0,), every=1, first=freeze),
    )

  made = _chosen(levels, run.own, 'levels')()
  return Method(mq_jax.unquantized(made), finish=finish)


def _binary_relax(run: _Run) -> Method:
  hard = max(1, round(_share(run.own, 'hard') * run.steps))
  if not 0 < run.own.first <= run.own.last:
    raise ValueError(
      f'config.method.first={run.own.first!r} and last={run.own.last!r} must be'
      ' positive and rise'
    )
  strength = optax.join_schedules(
    [
      optax.exponential_decay(
        run.own.first, hard, run.own.last / run.own.first
      ),
      optax.constant_schedule(float('inf')),
    ],
    [hard],
  )
  levels = {'binary': lambda: mq_jax.bwn(clip=None), 'ternary': methods.twn}
  return Method(
    methods.binary_relax(_chosen(levels, run.own, 'levels')(), strength)
  )


def _numbers(own: ConfigDict, name: str) -> list[float]:
  try:
    return [float(number) for number in own[name].split()]
  except ValueError as error:
    raise ValueError(
      f'config.method.{name}={own[name]!r} must be numbers with blanks between'
    ) from error


def _by_portions(run: _Run, bits: int) -> Transformation:
  """Freezes the last portion with the last update, the others before."""
  own = ConfigDict(run.own)
  own.portions = own.portions or PORTIONS.get(bits, '')
  if not own.portions:
    raise ValueError(
      f'config.bits={bits!r} has no published portions (there are those of'
      f' {sorted(PORTIONS)}): give config.method.portions'
    )
  portions = _numbers(own, 'portions')
  later = max(1, len(portions) - 1)
  every = max(1, (run.steps - 1) // later)
  first = max(0, run.steps - 1 - every * later)
  return lambda rules: methods.incremental(rules, portions, every, first)


def _inq(run: _Run) -> Method:
  return Method(
    methods.inq(run.config.bits),
    finish=_by_portions(run, run.config.bits),
  )


def _elq(run: _Run) -> Method:
  levels = {'binary': mq_jax.bwn, 'ternary': methods.twn}
  made = methods.fixed_levels(_chosen(levels, run.own, 'levels')())
  return Method(
    mq_jax.unquantized(made),
    lambda rules: methods.loss_error_aware(
      rules, run.own.perturbation, run.own.approximation
    ),
    _by_portions(run, 2),
  )


def _admm(run: _Run) -> Method:
  if run.own.rounds < 1:
    raise ValueError(
      f'config.method.rounds={run.own.rounds!r} must be at least 1'
    )
  every = max(1, run.steps // run.own.rounds)
  values = _numbers(run.own, 'levels')
  return Method(
    mq_jax.unquantized(methods.scaled_set(values)),
    lambda rules: methods.admm(rules, run.own.rho, every),
  )


def _psgd(run: _Run) -> Method:
  target = _chosen({'grid': None, 'zero': lambda w: 0 * w}, run.own, 'target')
  start = round(_share(run.own, 'start') * run.steps)

  def refine(rules: Rules) -> optax.GradientTransformation:
    return optax.conditionally_transform(
      methods.position_scaled(
        rules,
        strength=run.own.strength,
        epsilon=run.own.epsilon,
        normalised=run.own.normalised,
        target=target,
      ),
      lambda updates: updates >= start,
    )

  return Method(mq_jax.unquantized(methods.uniform(run.config.bits)), refine)


def _slb(run: _Run) -> Method:
  window = _numbers(run.own, 'window')
  if len(window) != 2:
    raise ValueError(
      f'config.method.window={run.own.window!r} must be two shares of the run,'
      " such as '0.4 0.9'"
    )
  by_epoch = run.own.kind == 'multiplicative'
  rising = methods.rising(
    'exp' if by_epoch else run.own.kind,
    run.own.first,
    run.own.last,
    run.steps,
    (window[0], window[1]),
    run.own.cycles,
    run.steps_per_epoch if by_epoch else 1,
  )
  return Method(methods.slb(run.config.bits, rising, run.own.sharpness))


def _uniform(run: _Run) -> Method:
  return Method(methods.uniform(run.config.bits))


def _aciq(run: _Run) -> Method:
  return Method(
    methods.aciq(
      run.config.bits,
      per_channel=run.config.per_channel,
      prior=run.own.prior,
      corrected=run.own.corrected,
    )
  )


def _lapq(run: _Run) -> Method:
  if run.own.images < 1 or run.own.sweeps < 0:
    raise ValueError(
      f'config.method.images={run.own.images!r} must be at least 1, and'
      f' sweeps={run.own.sweeps!r} at least 0'
    )
  return Method(
    methods.clipped_uniform(run.config.bits, corrected=run.own.corrected)
  )


_MAKE: dict[str, Callable[..., Method]] = {
  'dorefa': _dorefa,
  'bwn': _bwn,
  'binary': _binary,
  'twn': _twn,
  'ttq': _ttq,
  'lsq': _lsq,
  'lab': _lab,
  'lq_nets': _lq_nets,
  'proxquant': _proxquant,
  'binary_relax': _binary_relax,
  'inq': _inq,
  'elq': _elq,
  'admm': _admm,
  'psgd': _psgd,
  'slb': _slb,
  'uniform': _uniform,
  'aciq': _aciq,
  'lapq': _lapq,
}
