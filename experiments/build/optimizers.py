"""From a configuration to the optimizers of the network and of φ."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Array = jax.Array
# π without learning rate and weight decay, and whether the latter is decoupled.
OPTIMIZERS: dict[str, tuple[Callable[[ConfigDict], Any], bool]] = {
  'sgd': (lambda config: optax.identity(), False),
  'momentum': (lambda config: optax.trace(0.9), False),
  'adam': (lambda config: optax.scale_by_adam(eps_root=config.eps_root), False),
  'adamw': (lambda config: optax.scale_by_adam(eps_root=config.eps_root), True),
  'rmsprop': (lambda config: optax.scale_by_rms(), False),
  'lion': (lambda config: optax.scale_by_lion(), True),
}


def refine(config: ConfigDict) -> optax.GradientTransformation:
  """π: the optimizer that `config` names, without a learning rate."""
  make, decoupled = OPTIMIZERS[config.optimizer]
  optimizer = make(config)
  if not config.weight_decay:
    return optimizer
  decay = optax.add_decayed_weights(config.weight_decay)
  parts = (optimizer, decay) if decoupled else (decay, optimizer)
  return optax.chain(*parts)


def learning_rate(
  config: ConfigDict, steps_per_epoch: int
) -> Callable[[Any], Any]:
  """α as a function of the number of updates so far."""
  initial = config.learning_rate
  if config.quantizer == 'none':
    return optax.cosine_decay_schedule(initial, config.epochs * steps_per_epoch)
  if not config.decay_at:
    return falling(
      initial, config.decay_every, steps_per_epoch, config.decay_factor
    )
  return optax.piecewise_constant_schedule(
    initial,
    {
      epoch * steps_per_epoch: config.decay_factor
      for epoch in map(int, config.decay_at.split())
    },
  )


def falling(
  initial: float, every: int, steps_per_epoch: int, factor: float
) -> Callable[[Any], Any]:
  """A rate that is multiplied by `factor` every so many epochs; 0: never."""
  if not every:
    return optax.constant_schedule(initial)
  return optax.exponential_decay(
    initial, every * steps_per_epoch, factor, staircase=True
  )


def meta_optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  """What trains φ, with its learning rate γ.

  Between its turns, and once it has stopped, φ stands still.
  """
  gamma = falling(
    config.meta_learning_rate, config.meta_decay_every, steps_per_epoch, 0.1
  )
  last = config.meta_stop * steps_per_epoch or jnp.inf

  def rate(step: Array) -> Array:
    has_turn = (step % config.meta_every == 0) & (step < last)
    return jnp.where(has_turn, gamma(step), 0.0)

  make = {'adam': optax.adam, 'sgd': optax.sgd}[config.meta_optimizer]
  return make(rate)
