"""Diagnostics of quantized training, layer by layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.estimators import GradientEstimator
from mq_jax.quantizers import Quantizer
from mq_jax.selection import map_selected

Array = jax.Array

# The bins of `histogram` cover this many standard deviations on either side of
# the mean.
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


def diagnose(
  selected: Mapping[str, Quantizer],
  estimator: GradientEstimator,
  phi: Any,
  w_tilde: Mapping[str, Array],
  variables: Mapping[str, Any],
  codes: Mapping[str, Array],
  since: Mapping[str, Array] | None,
) -> Diagnostics:
  """Compares codes with an earlier snapshot and summarizes W̃ and φ.

  Args:
    selected: Path to quantizer.
    estimator: The estimator of φ.
    phi: φ.
    w_tilde: Path to pre-processed weight.
    variables: Path to the quantizer's variables.
    codes: Path to the current codes.
    since: Path to the codes of an earlier step, or None.

  Returns:
    The `Diagnostics`.

  Raises:
    ValueError: If the layers or shapes of `since` differ from those of `codes`.
  """
  if since is not None:
    shapes = {path: jnp.shape(leaf) for path, leaf in codes.items()}
    others = {path: jnp.shape(leaf) for path, leaf in since.items()}
    if shapes != others:
      raise ValueError(
        f'since has codes of the shapes {others}, but the state has {shapes}:'
        ' take the snapshot by codes(state) of the same train step.'
      )
  return Diagnostics(
    flipped={}
    if since is None
    else {path: jnp.mean(codes[path] != since[path]) for path in codes},
    saturation=map_selected(
      lambda q, w, v: jnp.mean(q.saturated(w, v)), selected, w_tilde, variables
    ),
    factor=estimator.factor(phi),
    histogram={path: _histogram(leaf) for path, leaf in w_tilde.items()},
  )


def _histogram(w_tilde: Array) -> Array:
  deviation = jnp.std(w_tilde)
  scale = jnp.where(deviation > 0, deviation, 1)
  standardized = (w_tilde - jnp.mean(w_tilde)) / scale
  bins = jnp.floor((standardized + DEVIATIONS) * (BINS / (2 * DEVIATIONS)))
  index = jnp.clip(bins, 0, BINS - 1).astype(jnp.int32)
  return jnp.bincount(index.ravel(), length=BINS)
