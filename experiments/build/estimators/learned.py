"""The straight-through rule, and the estimators that learn a φ."""

from collections.abc import Callable

from ml_collections import ConfigDict

import mq_jax
from experiments.build.estimators.declaration import (
  Estimator,
  EstimatorContext,
)
from experiments.build.networks import DTYPES

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
      grid_points=keys.grid_points,
    ),
    ('hidden', 'init', 'carry', 'memory_dtype', 'grid_points'),
    '#D55E00',
    '^',
  ),
  'kernel_wise': Estimator(
    lambda keys, context: mq_jax.kernel_wise(
      hidden=keys.hidden, init=keys.init
    ),
    ('hidden', 'init'),
    '#CC79A7',
    'v',
    needs_shapes=True,
  ),
  'feature_fc': Estimator(
    _feature_fc, ('hidden', 'features', 'progress_epochs'), '#E69F00', 'P'
  ),
}
