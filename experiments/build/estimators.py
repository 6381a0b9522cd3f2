"""The gradient estimators that `config.estimator` names."""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import subset
from experiments.build.networks import DTYPES


class EstimatorContext(NamedTuple):
  """The properties of a run that its estimator depends on.

  Attributes:
    steps_per_epoch: Number of updates per epoch.
    threshold: W̃ at the border of the two levels; None if there are more.
  """

  steps_per_epoch: int
  threshold: float | None


class Estimator(NamedTuple):
  """The declaration of an estimator.

  Attributes:
    make: `(keys, context) -> mq_jax.GradientEstimator`. `keys` has the keys in
      `reads`.
    reads: Configuration keys that the estimator depends on.
    colour: Colour in all figures, from the palette of Okabe and Ito, which
      colour-blind readers can distinguish.
    marker: Marker in all figures, as matplotlib names it.
    learned: The estimator has parameters φ.
    needs_shapes: The estimator fits only kernels of certain shapes.
  """

  make: Callable[[ConfigDict, EstimatorContext], mq_jax.GradientEstimator]
  reads: tuple[str, ...]
  colour: str
  marker: str
  learned: bool = True
  needs_shapes: bool = False


# None keeps the type of the weights, which may be float64.
_MEMORY_DTYPES = DTYPES | {'float32': None}
_STACK = ('hidden', 'layers', 'estimator_activation', 'init')


def _stack(
  make: Callable[..., mq_jax.GradientEstimator],
) -> Callable[[ConfigDict, EstimatorContext], mq_jax.GradientEstimator]:
  """Makes a stack of dense layers from the keys in `_STACK`."""
  return lambda keys, context: make(
    hidden=keys.hidden,
    layers=keys.layers,
    activation=keys.estimator_activation,
    init=keys.init,
  )


def _feature_fc(
  keys: ConfigDict, context: EstimatorContext
) -> mq_jax.GradientEstimator:
  features = tuple(keys.features.split())
  if 'distance' in features and context.threshold is None:
    raise ValueError(
      f"config.features={keys.features!r} contains 'distance', the distance to"
      ' the threshold between two levels, but the quantizer has several'
      " thresholds: leave 'distance' out, or use a quantizer of 1 bit."
    )
  return mq_jax.feature_fc(
    features=features,
    hidden=keys.hidden,
    steps=keys.progress_epochs * context.steps_per_epoch,
    # Only the feature 'distance' reads it.
    threshold=0.0 if context.threshold is None else context.threshold,
  )


ESTIMATORS = {
  'ste': Estimator(
    lambda keys, context: mq_jax.ste(), (), '#000000', 'o', learned=False
  ),
  'fc_grad': Estimator(_stack(mq_jax.fc_grad), _STACK, '#009E73', 'D'),
  'multi_fc': Estimator(_stack(mq_jax.multi_fc), _STACK, '#0072B2', 's'),
  'lstm_fc': Estimator(
    lambda keys, context: mq_jax.lstm_fc(
      hidden=keys.hidden,
      carry=keys.carry,
      init=keys.init,
      memory_dtype=_MEMORY_DTYPES[keys.memory_dtype],
    ),
    ('hidden', 'init', 'carry', 'memory_dtype'),
    '#D55E00',
    '^',
  ),
  'kernel_wise': Estimator(
    lambda keys, context: mq_jax.kernel_wise(**keys),
    ('hidden', 'init'),
    '#CC79A7',
    'v',
    needs_shapes=True,
  ),
  'feature_fc': Estimator(
    _feature_fc, ('hidden', 'features', 'progress_epochs'), '#E69F00', 'P'
  ),
}


def make_estimator(
  config: ConfigDict, context: EstimatorContext
) -> mq_jax.GradientEstimator:
  """Makes the estimator that `config.estimator` names.

  Raises:
    ValueError: If a value is out of range, or the estimator does not fit the
      quantizer.
  """
  declared = ESTIMATORS[config.estimator]
  estimator = declared.make(subset(config, declared.reads), context)
  if not declared.learned:
    return estimator
  estimator = mq_jax.per_layer(estimator) if config.per_layer else estimator
  return mq_jax.slim(estimator) if config.slim else estimator
