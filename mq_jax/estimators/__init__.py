"""Gradient estimators: the backward pass of quantized training.

A meta quantizer M_φ is a small network that all layers share. It acts on every
coordinate separately and estimates the gradient that passes through the
quantizer, g_W̃ = M_φ(g_Ŵ, W̃), eq. (3). φ is trained together with the weights.
The straight-through rule and the other slopes have no φ.

References for all estimators:
  Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
  Non-differentiable Quantization <https://papers.nips.cc/paper/8647>`_, 2019,
  eqs. (9) to (11)
"""

from mq_jax.estimators.base import GradientEstimator as GradientEstimator
from mq_jax.estimators.base import Signals as Signals
from mq_jax.estimators.features import feature_fc as feature_fc
from mq_jax.estimators.fully_connected import fc_grad as fc_grad
from mq_jax.estimators.fully_connected import multi_fc as multi_fc
from mq_jax.estimators.kernels import kernel_wise as kernel_wise
from mq_jax.estimators.lstm import lstm_fc as lstm_fc
from mq_jax.estimators.slopes import adaste as adaste
from mq_jax.estimators.slopes import approx_sign as approx_sign
from mq_jax.estimators.slopes import dsq as dsq
from mq_jax.estimators.slopes import ede as ede
from mq_jax.estimators.slopes import ewgs as ewgs
from mq_jax.estimators.slopes import measured_deltas as measured_deltas
from mq_jax.estimators.slopes import rbnn as rbnn
from mq_jax.estimators.slopes import reste as reste
from mq_jax.estimators.slopes import stableqat as stableqat
from mq_jax.estimators.slopes import swish_sign as swish_sign
from mq_jax.estimators.straight_through import ste as ste
from mq_jax.estimators.wrappers import per_layer as per_layer
from mq_jax.estimators.wrappers import slim as slim
