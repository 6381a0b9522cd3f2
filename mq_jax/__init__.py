"""Training networks of 1 to 8 bit weights, with learned gradients, in JAX."""

from mq_jax import activations as activations
from mq_jax import estimators as estimators
from mq_jax import methods as methods
from mq_jax.activations import Activation as Activation
from mq_jax.diagnostics import Diagnostics as Diagnostics
from mq_jax.estimators import GradientEstimator as GradientEstimator
from mq_jax.estimators import Signals as Signals
from mq_jax.estimators import fc_grad as fc_grad
from mq_jax.estimators import feature_fc as feature_fc
from mq_jax.estimators import kernel_wise as kernel_wise
from mq_jax.estimators import lstm_fc as lstm_fc
from mq_jax.estimators import multi_fc as multi_fc
from mq_jax.estimators import per_layer as per_layer
from mq_jax.estimators import slim as slim
from mq_jax.estimators import ste as ste
from mq_jax.late_update import State as State
from mq_jax.packing import LayerSummary as LayerSummary
from mq_jax.packing import PackedArray as PackedArray
from mq_jax.packing import PackedParams as PackedParams
from mq_jax.packing import Summary as Summary
from mq_jax.packing import codes_and_levels as codes_and_levels
from mq_jax.packing import load_packed as load_packed
from mq_jax.packing import pack as pack
from mq_jax.packing import save_packed as save_packed
from mq_jax.packing import summary as summary
from mq_jax.packing import unpack as unpack
from mq_jax.quantizers import Quantizer as Quantizer
from mq_jax.quantizers import bwn as bwn
from mq_jax.quantizers import dequantize as dequantize
from mq_jax.quantizers import dorefa as dorefa
from mq_jax.quantizers import per as per
from mq_jax.quantizers import quantize as quantize
from mq_jax.quantizers import unquantized as unquantized
from mq_jax.train_step import TrainStep as TrainStep
from mq_jax.train_step import make_train_step as make_train_step

__version__ = '0.1.0'
