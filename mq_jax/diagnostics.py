"""Diagnostics of quantized training, layer by layer."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.late_update import Setup, State, preprocessed
from mq_jax.precision import widened
from mq_jax.selection import map_selected, select

Array = jax.Array

# `histogram` covers ±DEVIATIONS standard deviations around the mean.
BINS, DEVIATIONS = 64, 4.0


class Diagnostics(NamedTuple):
  """Diagnostics of the quantized layers.

  Attributes:
    flipped: Path to the fraction of codes, 0 to 1, that differ from an earlier
      snapshot; empty without a snapshot.
    saturation: Path to the fraction of weights, 0 to 1, outside the active
      range of the quantizer.
    factor: The scalars that a stack without activation reduces to: `s`, and
      `offset` if the stack has biases. Empty for other estimators.
    histogram: Path to the number of weights in each of 64 equal bins from -4 to
      4 of W̃, standardized within the layer (mean 0, standard deviation 1). The
      outermost bins include all weights beyond them.
  """

  flipped: dict[str, Array]
  saturation: dict[str, Array]
  factor: dict[str, Array]
  histogram: dict[str, Array]


def codes(setup: Setup, state: State) -> dict[str, Array]:
  """Returns the current codes of each quantized leaf by path."""
  selected = select(state.params, setup.quantizer)
  w_tilde = preprocessed(selected, state.params, state.variables)
  return map_selected(
    lambda q, w, v: q.codes(w, v)[0], selected, w_tilde, state.variables
  )


def diagnose(
  setup: Setup, state: State, since: Mapping[str, Array] | None = None
) -> Diagnostics:
  """Compares codes with an earlier snapshot and summarizes W̃ and φ.

  Args:
    setup: The `Setup`.
    state: A state of the train step.
    since: Path to the codes of an earlier state, or None.

  Returns:
    The `Diagnostics`.

  Raises:
    ValueError: If the layers or shapes of `since` differ from those of `state`.
  """
  selected = select(state.params, setup.quantizer)
  w_tilde = preprocessed(selected, state.params, state.variables)
  now = codes(setup, state)
  flipped = {}
  if since is not None:
    shapes = {path: jnp.shape(leaf) for path, leaf in now.items()}
    others = {path: jnp.shape(leaf) for path, leaf in since.items()}
    if shapes != others:
      raise ValueError(
        f'since has codes of the shapes {others}, but the state has {shapes}:'
        ' take the snapshot by codes(state) of the same train step.'
      )
    flipped = {path: jnp.mean(now[path] != since[path]) for path in now}
  return Diagnostics(
    flipped=flipped,
    saturation=map_selected(
      lambda q, w, v: jnp.mean(q.saturated(w, v)),
      selected,
      w_tilde,
      state.variables,
    ),
    factor=setup.estimator.factor(state.phi),
    histogram={path: _histogram(leaf) for path, leaf in w_tilde.items()},
  )


def _histogram(w_tilde: Array) -> Array:
  w = widened(w_tilde)
  deviation = jnp.std(w)
  scale = jnp.where(deviation > 0, deviation, 1)
  standardized = (w - jnp.mean(w)) / scale
  bins = jnp.floor((standardized + DEVIATIONS) * (BINS / (2 * DEVIATIONS)))
  index = jnp.clip(bins, 0, BINS - 1).astype(jnp.int32)
  return jnp.bincount(index.ravel(), length=BINS)
