"""A meta quantizer that reads the usual inputs of learned optimizers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.checks import check_count, check_finite, check_number
from mq_jax.estimators import coordinates, stacks
from mq_jax.estimators.base import (
  GradientEstimator,
  Leaves,
  Signals,
  phi_dtype,
  times,
)
from mq_jax.precision import widened
from mq_jax.printing import prints_call

Array = jax.Array

FEATURES = ('gradient', 'momentum', 'distance', 'progress')


@prints_call
def feature_fc(
  *,
  features: Sequence[str] = FEATURES,
  hidden: int = 16,
  decay: float = 0.9,
  steps: int = 10_000,
  threshold: float = 0.5,
) -> GradientEstimator:
  """Makes g_W̃ = g_ste · FCs(φ, tanh, features), coordinate by coordinate.

  The estimator starts exactly at the straight-through rule. The first three
  features are divided by their root mean square in the layer, because learned
  optimizers require inputs of order 1 at any scale of the layer:

  - 'gradient': the straight-through gradient;
  - 'momentum': the running mean of that gradient;
  - 'distance': W̃ − `threshold`;
  - 'progress': the number of steps taken divided by `steps`, at most 1.

  Args:
    features: Names of the features to read, in any order.
    hidden: Width of the hidden layer.
    decay: Decay of the running mean, at least 0 and below 1.
    steps: Number of steps after which 'progress' is 1.
    threshold: W̃ at which codes flip: 0.5 in dorefa at 1 bit, 0 in bwn.

  Returns:
    A `GradientEstimator`. Its state is the running mean of the straight-through
    gradient, in float32 or wider.

  Raises:
    ValueError: If an argument is out of range.

  References:
    Metz et al., `Understanding and correcting pathologies in the training of
    learned optimizers <https://arxiv.org/abs/1810.10180>`_, 2019: inputs of a
    per-coordinate network
  """
  features = tuple(features)
  check_finite(threshold=threshold)
  if unknown := sorted(set(features) - set(FEATURES)):
    raise ValueError(f'features {unknown} are unknown: choose from {FEATURES}.')
  if not features or len(set(features)) < len(features):
    raise ValueError(
      f'features={features!r} must be non-empty and contain no duplicates.'
    )
  check_number(decay=decay)
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay!r} must be at least 0 and below 1.')
  check_count('hidden', hidden)
  check_count('steps', steps)

  def init(key: Array, leaves: Leaves) -> Any:
    first_key, last_key = jax.random.split(key)
    dtype = phi_dtype(leaves)
    first = stacks.init_layer(first_key, (len(features), hidden), True, dtype)
    last = stacks.init_layer(last_key, (hidden, 1), True, dtype)
    return first, stacks.constant_one(last)

  def init_state(key: Array, leaves: Leaves) -> dict[str, Array]:
    del key  # The state has no random part.
    return {
      path: jnp.zeros_like(widened(leaf)) for path, leaf in leaves.items()
    }

  def apply(
    phi: Any, signals: Signals, state: dict[str, Array]
  ) -> tuple[Leaves, dict[str, Array]]:
    g_ste, w_tilde = signals.g_ste, signals.w_tilde
    momentum = {
      path: decay * state[path] + (1 - decay) * g for path, g in g_ste.items()
    }
    progress = jnp.minimum(signals.step / steps, 1.0)
    inputs = {
      'gradient': _over_rms(g_ste),
      'momentum': _over_rms(momentum),
      'distance': _over_rms(
        {path: w - threshold for path, w in w_tilde.items()}
      ),
      'progress': {
        path: jnp.full_like(widened(w), progress) for path, w in w_tilde.items()
      },
    }
    blocks = jnp.stack(
      [coordinates.to_blocks(inputs[name]) for name in features], axis=-1
    )
    factor = coordinates.from_blocks(
      coordinates.map_blocks(_factor, phi, blocks), g_ste
    )
    return times(g_ste, factor), momentum

  return GradientEstimator(init, init_state, apply, factor=lambda phi: {})


def _factor(phi: Any, block: Array) -> Array:
  first, last = phi
  return stacks.linear(last, jnp.tanh(stacks.linear(first, block)))[:, 0]


def _over_rms(leaves: Leaves) -> dict[str, Array]:
  """Returns each leaf divided by its root mean square; zeros stay zeros."""

  def normalized(leaf: Array) -> Array:
    wide = widened(leaf)
    scale = jnp.sqrt(jnp.mean(jnp.square(wide)))
    return wide / jnp.where(scale > 0, scale, 1)

  return {path: normalized(leaf) for path, leaf in leaves.items()}
