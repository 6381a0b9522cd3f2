"""From a configuration to the parts of a train step that make up a method."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build import optimizers
from experiments.build.method_options import (
  PORTIONS,
  chosen,
  numbers,
  options,
  share,
)
from mq_jax import methods, selection

Rules = selection.Rules
Transformation = Callable[[Rules], optax.GradientTransformation]


class Method(NamedTuple):
  """What a method is made of.

  Attributes:
    quantizer: Of each leaf.
    refine: Rules to what stands first in π.
    post_update: Rules to what is done to a move last.
  """

  quantizer: mq_jax.Quantizer
  refine: Transformation | None = None
  post_update: Transformation | None = None


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
  return Method(methods.binary(), post_update=methods.clip_weights)


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
  return Method(methods.lab(run.own.decay), post_update=methods.clip_weights)


def _lq_nets(run: _Run) -> Method:
  return Method(methods.lq_nets(run.config.bits, run.own.decay))


def _proxquant(run: _Run) -> Method:
  levels = {
    'binary': methods.binary,
    'ternary': lambda: methods.twn(two_scales=True),
  }
  prox = chosen({'l1': methods.prox_l1, 'l2': methods.prox_l2}, run.own, 'prox')
  if not 0 <= run.own.pull < float('inf'):
    raise ValueError(
      f'config.method.pull={run.own.pull!r} must be at least 0 and finite'
    )
  freeze = max(1, round(share(run.own, 'freeze') * run.steps))
  rise = 2 * run.own.pull / freeze**2

  def post_update(rules: Rules) -> optax.GradientTransformation:
    return optax.chain(
      methods.proximal_step(rules, lambda updates: rise * updates, prox),
      methods.clip_weights(rules),
      methods.freeze_portions(rules, (1.0,), every=1, first=freeze),
    )

  made = chosen(levels, run.own, 'levels')()
  return Method(mq_jax.unquantized(made), post_update=post_update)


def _binary_relax(run: _Run) -> Method:
  hard = max(1, round(share(run.own, 'hard') * run.steps))
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
    methods.binary_relax(chosen(levels, run.own, 'levels')(), strength)
  )


def _by_portions(run: _Run, bits: int) -> Transformation:
  """Freezes the last portion with the last update, the others before."""
  own = ConfigDict(run.own)
  own.portions = own.portions or PORTIONS.get(bits, '')
  if not own.portions:
    raise ValueError(
      f'config.bits={bits!r} has no published portions (there are those of'
      f' {sorted(PORTIONS)}): give config.method.portions'
    )
  portions = numbers(own, 'portions')
  later = max(1, len(portions) - 1)
  every = max(1, (run.steps - 1) // later)
  first = max(0, run.steps - 1 - every * later)
  return lambda rules: methods.freeze_portions(rules, portions, every, first)


def _inq(run: _Run) -> Method:
  return Method(
    methods.inq(run.config.bits),
    post_update=_by_portions(run, run.config.bits),
  )


def _elq(run: _Run) -> Method:
  levels = {'binary': mq_jax.bwn, 'ternary': methods.twn}
  made = methods.fixed_levels(chosen(levels, run.own, 'levels')())
  return Method(
    mq_jax.unquantized(made),
    lambda rules: methods.add_elq_penalties(
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
  values = numbers(run.own, 'levels')
  return Method(
    mq_jax.unquantized(methods.scaled_levels(values)),
    lambda rules: methods.admm(rules, run.own.rho, every),
  )


def _psgd(run: _Run) -> Method:
  target = chosen({'grid': None, 'zero': lambda w: 0 * w}, run.own, 'target')
  start = round(share(run.own, 'start') * run.steps)

  def refine(rules: Rules) -> optax.GradientTransformation:
    return optax.conditionally_transform(
      methods.scale_by_position(
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
  window = numbers(run.own, 'window')
  if len(window) != 2:
    raise ValueError(
      f'config.method.window={run.own.window!r} must be two shares of the run,'
      " such as '0.4 0.9'"
    )
  by_epoch = run.own.kind == 'multiplicative'
  rising = methods.temperature_schedule(
    'exp' if by_epoch else run.own.kind,
    run.own.first,
    run.own.last,
    run.steps,
    (window[0], window[1]),
    run.own.cycles,
    run.steps_per_epoch if by_epoch else 1,
    run.own.freeze,
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
