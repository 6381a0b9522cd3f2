"""The straight-through estimator."""

from mq_jax.estimators.base import GradientEstimator
from mq_jax.printing import prints_call


@prints_call
def ste() -> GradientEstimator:
  """Makes the estimator that returns g_ste, the rule of the quantizer."""
  return GradientEstimator(
    init=lambda key, leaves: (),
    init_state=lambda key, leaves: (),
    apply=lambda phi, signals, state: (signals.g_ste, state),
    factor=lambda phi: {},
  )
