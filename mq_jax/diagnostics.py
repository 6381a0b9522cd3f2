"""What quantized training does to the weights, layer by layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.estimators import GradientEstimator
from mq_jax.quantizers import Quantizer
from mq_jax.selection import map_selected

Array = jax.Array


# Bins of `histogram`, and the standard deviations on either side of the mean
# that they cover.
BINS, REACH = 64, 4.0


class Diagnostics(NamedTuple):
  """A look at the quantized layers.

  Attributes:
    flipped: Path to the share of codes, 0 to 1, that differ from those of the
      earlier snapshot; empty without one.
    saturation: Path to the share of weights, 0 to 1, beyond the quantizer's
      active range.
    factor: The scalars that a stack without activation amounts to: `s`, and
      `offset` where it has biases; else empty.
    histogram: Path to the number of weights in each of 64 equal bins of W̃,
      less its mean in the layer and over its standard deviation, from -4 to 4;
      what is beyond counts in the outermost.
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
  """Compares codes with an earlier snapshot and looks at W̃ and φ.

  Args:
    selected: Path to quantizer.
    estimator: The estimator that φ belongs to.
    phi: φ.
    w_tilde: Path to pre-processed weight.
    variables: Path to the quantizer's variables.
    codes: Path to the codes of now.
    since: Path to the codes of an earlier step, or None.

  Returns:
    `Diagnostics`.

  Raises:
    ValueError: If `since` is a snapshot of other layers or other shapes.
  """
  if since is not None:
    shapes = {path: jnp.shape(leaf) for path, leaf in codes.items()}
    others = {path: jnp.shape(leaf) for path, leaf in since.items()}
    if shapes != others:
      raise ValueError(
        f'since has the codes of {others}, but the state has {shapes}: take'
        ' the snapshot with codes(state) of the same train step.'
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
  standardised = (w_tilde - jnp.mean(w_tilde)) / scale
  place = jnp.floor((standardised + REACH) * (BINS / (2 * REACH)))
  index = jnp.clip(place, 0, BINS - 1).astype(jnp.int32)
  return jnp.bincount(index.ravel(), length=BINS)
