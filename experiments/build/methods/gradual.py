"""Methods that move the weights to their levels gradually.

Times are fractions of the run, so that a run of any length reaches them all.
"""

import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import Key
from experiments.build.methods.declaration import (
  Method,
  MethodContext,
  MethodParts,
  Rules,
  Transformation,
  numbers,
)
from experiments.common.errors import ConfigError
from mq_jax import methods
from mq_jax.methods.slb import SHAPES

# Portions of INQ by bits.
PORTIONS = {
  5: '0.5 0.75 0.875 1',
  4: '0.3 0.5 0.8 0.9 0.95 1',
  3: '0.2 0.4 0.6 0.7 0.8 0.9 0.95 1',
  2: '0.2 0.4 0.6 0.7 0.8 0.85 0.9 0.95 0.975 1',
}


def _proxquant(keys: ConfigDict, context: MethodContext) -> MethodParts:
  is_binary = keys.method.levels == 'binary'
  levels = methods.binary() if is_binary else methods.twn(two_scales=True)
  prox = {'l1': methods.prox_l1, 'l2': methods.prox_l2}[keys.method.prox]
  freeze = max(1, round(keys.method.freeze * context.steps))
  rise = 2 * keys.method.pull / freeze**2

  def post_update(rules: Rules) -> optax.GradientTransformation:
    return optax.chain(
      methods.proximal_step(rules, lambda updates: rise * updates, prox=prox),
      methods.clip_weights(rules),
      methods.freeze_portions(rules, (1.0,), every=1, first=freeze),
    )

  return MethodParts(mq_jax.unquantized(levels), post_update=post_update)


def _binary_relax(keys: ConfigDict, context: MethodContext) -> MethodParts:
  if not 0 < keys.method.first <= keys.method.last:
    raise ConfigError(
      f'config.method.first={keys.method.first!r} must be positive and at most'
      f' config.method.last={keys.method.last!r}.'
    )
  hard = max(1, round(keys.method.hard * context.steps))
  strength = optax.join_schedules(
    [
      optax.exponential_decay(
        keys.method.first, hard, keys.method.last / keys.method.first
      ),
      optax.constant_schedule(float('inf')),
    ],
    [hard],
  )
  is_binary = keys.method.levels == 'binary'
  levels = mq_jax.bwn(clip=None) if is_binary else methods.twn()
  return MethodParts(methods.binary_relax(levels, strength))


def _by_portions(
  keys: ConfigDict, context: MethodContext, bits: int
) -> Transformation:
  """Freezes the last portion at the last update and the others before it."""
  text = keys.method.portions or PORTIONS.get(bits, '')
  if not text:
    raise ConfigError(
      f'config.bits={bits!r} has no published portions (published: '
      f'{sorted(PORTIONS)}): set config.method.portions.'
    )
  portions = numbers('portions', text)
  later = max(1, len(portions) - 1)
  every = max(1, (context.steps - 1) // later)
  first = max(0, context.steps - 1 - every * later)
  return lambda rules: methods.freeze_portions(
    rules, portions, every=every, first=first
  )


def _inq(keys: ConfigDict, context: MethodContext) -> MethodParts:
  return MethodParts(
    methods.inq(keys.bits), post_update=_by_portions(keys, context, keys.bits)
  )


def _elq(keys: ConfigDict, context: MethodContext) -> MethodParts:
  levels = mq_jax.bwn() if keys.method.levels == 'binary' else methods.twn()
  return MethodParts(
    mq_jax.unquantized(methods.fixed_levels(levels)),
    lambda rules: methods.add_elq_penalties(
      rules,
      perturbation=keys.method.perturbation,
      approximation=keys.method.approximation,
    ),
    _by_portions(keys, context, bits=2),
  )


def _admm(keys: ConfigDict, context: MethodContext) -> MethodParts:
  every = max(1, context.steps // keys.method.rounds)
  levels = methods.scaled_levels(numbers('levels', keys.method.levels))
  return MethodParts(
    mq_jax.unquantized(levels),
    lambda rules: methods.admm(rules, rho=keys.method.rho, every=every),
  )


def _psgd(keys: ConfigDict, context: MethodContext) -> MethodParts:
  target = {'grid': None, 'zero': lambda w: 0 * w}[keys.method.target]
  start = round(keys.method.start * context.steps)

  def refine(rules: Rules) -> optax.GradientTransformation:
    return optax.conditionally_transform(
      methods.scale_by_position(
        rules,
        strength=keys.method.strength,
        epsilon=keys.method.epsilon,
        normalised=keys.method.normalised,
        target=target,
      ),
      lambda updates: updates >= start,
    )

  return MethodParts(mq_jax.unquantized(methods.uniform(keys.bits)), refine)


def _slb(keys: ConfigDict, context: MethodContext) -> MethodParts:
  window = numbers('window', keys.method.window)
  if len(window) != 2:
    raise ConfigError(
      f'config.method.window={keys.method.window!r} must be two fractions'
      " of the run, such as '0.4 0.9'."
    )
  by_epoch = keys.method.kind == 'multiplicative'
  inverse_temperature = methods.temperature_schedule(
    'exp' if by_epoch else keys.method.kind,
    start=keys.method.first,
    end=keys.method.last,
    total=context.steps,
    window=(window[0], window[1]),
    cycles=keys.method.cycles,
    every=context.steps_per_epoch if by_epoch else 1,
    freeze=keys.method.freeze,
  )
  return MethodParts(
    methods.slb(keys.bits, inverse_temperature, sharpness=keys.method.sharpness)
  )


_LEVELS = ('binary', 'ternary')
METHODS = {
  'proxquant': Method(
    _proxquant,
    options={
      'levels': Key('binary', 'Levels of the weights.', choices=_LEVELS),
      'prox': Key('l1', 'Regularizer.', choices=('l1', 'l2')),
      'pull': Key(
        7.8, 'Sum of all strengths, which rise in proportion to time.', least=0
      ),
      'freeze': Key(
        2 / 3,
        'Fraction of the run after which weights freeze.',
        least=0,
        most=1,
      ),
    },
    spans_run=True,
  ),
  'binary_relax': Method(
    _binary_relax,
    options={
      'levels': Key('binary', 'Levels of the weights.', choices=_LEVELS),
      'first': Key(1.0, 'λ at the start, which rises by a constant factor.'),
      'last': Key(565.0, 'λ at the end of the rise.'),
      'hard': Key(
        0.8, 'Fraction of the run after which λ is infinite.', least=0, most=1
      ),
    },
    spans_run=True,
  ),
  'inq': Method(
    _inq,
    ('bits',),
    {
      'portions': Key(
        '', 'Cumulative fractions of frozen weights; empty: the published ones.'
      )
    },
    spans_run=True,
  ),
  'elq': Method(
    _elq,
    options={
      'levels': Key('ternary', 'Levels of the weights.', choices=_LEVELS),
      'portions': Key(PORTIONS[2], 'Cumulative fractions of frozen weights.'),
      'perturbation': Key(0.1, 'Strength of the loss-aware term.', least=0),
      'approximation': Key(
        1e-3, 'Strength of the approximation error.', least=0
      ),
    },
    spans_run=True,
  ),
  'admm': Method(
    _admm,
    options={
      'levels': Key('-1 0 1', 'Levels up to a scale.'),
      'rho': Key(
        1e-3, 'ρ, strength of the pull towards the projection.', least=0
      ),
      'rounds': Key(50, 'Number of dual updates in the run.', least=1),
    },
    spans_run=True,
  ),
  'psgd': Method(
    _psgd,
    ('bits',),
    {
      'strength': Key(150.0, 'Factor of the distance to the target.', above=0),
      'epsilon': Key(0.0, 'Number that is added to every distance.', least=0),
      'normalised': Key(False, 'Divide distances by the largest in a layer.'),
      'start': Key(
        0.55,
        'Fraction of the run after which it scales gradients.',
        least=0,
        most=1,
      ),
      'target': Key('grid', 'Target of the weights.', choices=('grid', 'zero')),
    },
    spans_run=True,
  ),
  'slb': Method(
    _slb,
    ('bits',),
    {
      'kind': Key(
        'exp',
        'Schedule of the inverse temperature; multiplicative: exp, in steps of'
        ' one epoch.',
        choices=(*SHAPES, 'multiplicative'),
      ),
      'first': Key(0.01, 'Inverse temperature at the start.'),
      'last': Key(10.0, 'Inverse temperature at the end.'),
      'window': Key('0 1', 'Fractions of the run between which it rises.'),
      'cycles': Key(1, 'Number of rises.'),
      'sharpness': Key(1.0, 'Sharpness of the start from pretrained weights.'),
      'freeze': Key(False, 'Use only the levels after the window.'),
    },
    spans_run=True,
  ),
}
