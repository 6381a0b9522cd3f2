"""The declaration of an estimator."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import Key


class EstimatorContext(NamedTuple):
  """The properties of a run that its estimator depends on.

  Attributes:
    steps: Number of updates of the whole run, at least 1.
    steps_per_epoch: Number of updates per epoch.
    threshold: W̃ at the border of the two levels; None if there are more.
  """

  steps: int
  steps_per_epoch: int
  threshold: float | None


class Estimator(NamedTuple):
  """The declaration of an estimator.

  Attributes:
    make: `(keys, context) -> mq_jax.GradientEstimator`. `keys` has the keys in
      `reads`, and all options of the estimator in `keys.rule`.
    reads: Configuration keys that the estimator depends on.
    colour: Colour in all figures, from the palette of Okabe and Ito, which
      colour-blind readers can distinguish.
    marker: Marker in all figures, as matplotlib names it.
    learned: The estimator has parameters φ.
    needs_shapes: The estimator fits only kernels of certain shapes.
    reads_cells: The estimator reads the distance of a weight from a threshold,
      so the quantizer must round to the nearest level.
    options: Keys of `config.rule`.
    spans_run: The estimator has a schedule over all `context.steps`.
  """

  make: Callable[[ConfigDict, EstimatorContext], mq_jax.GradientEstimator]
  reads: tuple[str, ...]
  colour: str
  marker: str
  learned: bool = True
  needs_shapes: bool = False
  reads_cells: bool = False
  options: Mapping[str, Key] = {}
  spans_run: bool = False
