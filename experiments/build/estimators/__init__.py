"""The gradient estimators that `config.estimator` names, and their options."""

from typing import Any

from ml_collections import ConfigDict

import mq_jax
from experiments.build.estimators import learned, slopes
from experiments.build.estimators.declaration import Estimator as Estimator
from experiments.build.estimators.declaration import (
  EstimatorContext as EstimatorContext,
)
from experiments.build.key import subset

ESTIMATORS: dict[str, Estimator] = {**learned.ESTIMATORS, **slopes.ESTIMATORS}


def make_estimator(
  config: ConfigDict, options: dict[str, Any], context: EstimatorContext
) -> mq_jax.GradientEstimator:
  """Makes the estimator that `config.estimator` names.

  Args:
    config: A configuration.
    options: All options of the estimator.
    context: Properties of the run.

  Raises:
    ValueError: If a value is out of range, or the estimator does not fit the
      quantizer.
  """
  declared = ESTIMATORS[config.estimator]
  keys = subset(config, declared.reads)
  keys.rule = options
  estimator = declared.make(keys, context)
  if not declared.learned:
    return estimator
  estimator = mq_jax.per_layer(estimator) if config.per_layer else estimator
  return mq_jax.slim(estimator) if config.slim else estimator
