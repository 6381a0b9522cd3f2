"""Optimizers of the network and of φ, and their learning rates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments.build.key import subset

Array = jax.Array
Schedule = Callable[[Any], Any]


class Optimizer(NamedTuple):
  """The declaration of an optimizer of the network.

  Attributes:
    make: `(keys) -> optax.GradientTransformation` without learning rate and
      weight decay.
    reads: Configuration keys that it depends on.
    decoupled: Weight decay is added after the transformation, not before.
  """

  make: Callable[[ConfigDict], optax.GradientTransformation]
  reads: tuple[str, ...] = ()
  decoupled: bool = False


def _adam(keys: ConfigDict) -> optax.GradientTransformation:
  return optax.scale_by_adam(eps_root=keys.eps_root)


OPTIMIZERS = {
  'sgd': Optimizer(lambda keys: optax.identity()),
  'momentum': Optimizer(lambda keys: optax.trace(0.9)),
  'adam': Optimizer(_adam, ('eps_root',)),
  'adamw': Optimizer(_adam, ('eps_root',), decoupled=True),
  'rmsprop': Optimizer(lambda keys: optax.scale_by_rms()),
  'lion': Optimizer(lambda keys: optax.scale_by_lion(), decoupled=True),
}
# Schedules of α over a run.
SCHEDULES = ('steps', 'cosine')
_LARGEST_STEP = 2**31 - 1  # The state counts updates in int32.
META_OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}


def make_refine(config: ConfigDict) -> optax.GradientTransformation:
  """Makes π: `config.optimizer` with weight decay, without a learning rate."""
  declared = OPTIMIZERS[config.optimizer]
  optimizer = declared.make(subset(config, declared.reads))
  if not config.weight_decay:
    return optimizer
  decay = optax.add_decayed_weights(config.weight_decay)
  if declared.decoupled:
    return optax.chain(optimizer, decay)
  return optax.chain(decay, optimizer)


def make_learning_rate(
  config: ConfigDict,
  steps_per_epoch: int,
  initial: float,
  *,
  cosine: bool = False,
) -> Schedule:
  """Makes α as a function of the number of updates so far.

  Args:
    config: A checked configuration.
    steps_per_epoch: Number of updates per epoch.
    initial: α of the first update.
    cosine: True if α follows a cosine to 0 instead of the steps that the
      configuration gives.
  """
  if cosine and config.epochs:
    return optax.cosine_decay_schedule(initial, config.epochs * steps_per_epoch)
  if not config.decay_at:
    return _staircase(
      initial, config.decay_every, steps_per_epoch, config.decay_factor
    )
  return optax.piecewise_constant_schedule(
    initial,
    {
      _steps(epoch, steps_per_epoch): config.decay_factor
      for epoch in map(int, config.decay_at.split())
    },
  )


def _staircase(
  initial: float, every: int, steps_per_epoch: int, factor: float
) -> Schedule:
  """Multiplies a rate by `factor` every `every` epochs; 0 means never."""
  if not every:
    return optax.constant_schedule(initial)
  return optax.exponential_decay(
    initial, _steps(every, steps_per_epoch), factor, staircase=True
  )


def _steps(epochs: int, steps_per_epoch: int) -> int:
  """Returns the updates of a number of epochs, at most the largest int32."""
  return min(epochs * steps_per_epoch, _LARGEST_STEP)


def make_meta_optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  """Makes the optimizer of φ, with its learning rate γ.

  φ is constant between the steps that `config.meta_every` selects, and after
  the epochs in `config.meta_stop`.
  """
  gamma = _staircase(
    config.meta_learning_rate, config.meta_decay_every, steps_per_epoch, 0.1
  )
  last = _steps(config.meta_stop, steps_per_epoch) or jnp.inf

  def rate(step: Array) -> Array:
    updates_phi = (step % config.meta_every == 0) & (step < last)
    return jnp.where(updates_phi, gamma(step), 0.0)

  return META_OPTIMIZERS[config.meta_optimizer](rate)
