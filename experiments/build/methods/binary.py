"""Methods for binary weights that are newer than MetaQuant.

Schedules span the run, so that a run of any length reaches their ends.
"""

from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import Key
from experiments.build.methods.basic import per_channel
from experiments.build.methods.declaration import (
  Method,
  MethodContext,
  MethodParts,
)
from experiments.common.errors import ConfigError
from mq_jax import methods


def _recu(keys: ConfigDict, context: MethodContext) -> MethodParts:
  quantizer = methods.recu(
    context.steps, start=keys.method.start, end=keys.method.end
  )
  return MethodParts(per_channel(quantizer, keys), threshold=0.0)


def _oscillation(keys: ConfigDict, context: MethodContext) -> MethodParts:
  is_binary = keys.method.levels == 'binary'
  if is_binary and keys.bits != 1:
    raise ConfigError(
      f'config.bits={keys.bits} has no effect with'
      " config.method.levels='binary', which has 1 bit: set"
      " config.method.levels='uniform', or config.bits=1."
    )
  levels = mq_jax.bwn() if is_binary else methods.uniform(keys.bits)
  first, last, steps = keys.method.first, keys.method.last, context.steps
  if first < last:
    raise ConfigError(
      f'config.method.first={first!r} must be at least'
      f' config.method.last={last!r}: the threshold falls.'
    )

  def threshold(updates: Any) -> Any:
    progress = jnp.minimum(updates / steps, 1.0)
    return last + (first - last) * (1 + jnp.cos(jnp.pi * progress)) / 2

  return MethodParts(
    levels,
    lambda rules: methods.dampen(rules, strength=keys.method.dampening),
    lambda rules: methods.freeze_oscillating(
      rules, threshold=threshold, momentum=keys.method.momentum
    ),
    threshold=0.0 if is_binary else None,
  )


def _rising(keys: ConfigDict, steps: int) -> optax.Schedule:
  """Returns β, which rises exponentially over `steps` and then is constant."""
  if keys.method.first > keys.method.last:
    raise ConfigError(
      f'config.method.first={keys.method.first!r} must be at most'
      f' config.method.last={keys.method.last!r}: β rises.'
    )
  return optax.exponential_decay(
    keys.method.first,
    steps,
    keys.method.last / keys.method.first,
    end_value=keys.method.last,
  )


def _md_tanh(keys: ConfigDict, context: MethodContext) -> MethodParts:
  beta = _rising(keys, context.steps)
  return MethodParts(methods.md_tanh(beta, mirror=keys.method.mirror))


def _annealed_adaste(keys: ConfigDict, context: MethodContext) -> MethodParts:
  beta = _rising(keys, max(round(keys.method.rise * context.steps), 1))
  return MethodParts(methods.annealed_adaste(beta, start=keys.method.start))


METHODS = {
  'libra': Method(
    lambda keys, context: MethodParts(
      per_channel(methods.libra(), keys), threshold=0.0
    ),
    ('per_channel',),
  ),
  'recu': Method(
    _recu,
    ('per_channel',),
    {
      'start': Key(0.85, 'τ at the start.', least=0.51, most=0.999),
      'end': Key(0.99, 'τ at the end of the run.', least=0.51, most=0.999),
    },
    spans_run=True,
  ),
  'oscillation': Method(
    _oscillation,
    ('bits',),
    {
      'levels': Key(
        'binary', 'Levels of the weights.', choices=('binary', 'uniform')
      ),
      'first': Key(0.04, 'Frequency above which weights freeze.', least=0),
      'last': Key(0.01, 'The same at the end of the run.', least=0),
      'momentum': Key(
        0.01, 'Weight of a step in the frequency.', least=1e-6, most=0.999
      ),
      'dampening': Key(0.0, 'Strength of the pull to the levels.', least=0),
    },
    spans_run=True,
  ),
  'md_tanh': Method(
    _md_tanh,
    options={
      'first': Key(1.0, 'β at the start, which rises exponentially.', above=0),
      'last': Key(100.0, 'β at the end of the run.', above=0),
      'mirror': Key(True, 'Mirror descent; False: the exact gradient.'),
    },
    spans_run=True,
  ),
  'annealed_adaste': Method(
    _annealed_adaste,
    options={
      'first': Key(0.01, 'β at the start, which rises exponentially.', above=0),
      'last': Key(200.0, 'β at the end of its rise.', above=0),
      'rise': Key(
        0.11,
        'Share of the run in which β rises; 0: until the first update.',
        least=0.0,
        most=1.0,
      ),
      'start': Key(2.0, 'First size of the weights, per layer.', above=0),
    },
    spans_run=True,
  ),
  'bayes_binn': Method(
    lambda keys, context: MethodParts(
      methods.bayes_binn(
        temperature=keys.method.temperature, start=keys.method.start
      )
    ),
    options={
      'temperature': Key(1.0, 'Temperature of the samples.', above=0),
      'start': Key(2.0, 'First size of λ, the mean over a layer.', above=0),
    },
  ),
}
