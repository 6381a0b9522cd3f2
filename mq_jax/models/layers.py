"""Layers that several networks use."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mq_jax.models.batch_norm import BatchNorm
from mq_jax.models.cpu.bit_convolution import bit_conv_general_dilated
from mq_jax.models.cpu.depthwise import depthwise_conv_general_dilated

Array = jax.Array
Initializer = nn.initializers.Initializer

# Module constants, so that two networks of equal fields compare as equal.
HE = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
LECUN = nn.initializers.lecun_normal()
# Uniform up to √(1.5 / (fan_in + fan_out)), half of Glorot's bound.
HALF_GLOROT = nn.initializers.variance_scaling(0.25, 'fan_avg', 'uniform')
# Where a convolution with stride 2 pads: on all sides as in PyTorch, or as
# TensorFlow's 'SAME', which pads only below and to the right if sides are even.
PADDINGS = ('torch', 'same')


def conv(
  features: int,
  size: int,
  stride: int,
  dtype: Any,
  name: str,
  kernel_init: Initializer = HE,
  count_bits: bool = False,
  padding: str = 'torch',
) -> nn.Conv:
  """Returns a convolution without bias that divides the sides by `stride`.

  Args:
    features: Number of output channels.
    size: Both sides of the kernel.
    stride: Stride in both directions.
    dtype: Dtype in which the layer computes; parameters are at least float32.
    name: Name of the submodule.
    kernel_init: Initializer of the kernel.
    count_bits: True if input and kernel are ±1, so that CPUs count bits.
    padding: One of `PADDINGS`.
  """
  return _plain_conv(
    features,
    size,
    stride,
    dtype,
    name,
    padding,
    kernel_init=kernel_init,
    conv_general_dilated=bit_conv_general_dilated if count_bits else None,
  )


def depthwise_conv(
  features: int,
  size: int,
  stride: int,
  dtype: Any,
  name: str,
  padding: str = 'torch',
) -> nn.Conv:
  """Returns a convolution with one filter per channel, as `conv` otherwise.

  Args:
    features: Number of channels of the input and of the output.
    size: Both sides of the kernel, whose shape is `(size, size, 1, features)`.
    stride: Stride in both directions.
    dtype: Dtype in which the layer computes; parameters are at least float32.
    name: Name of the submodule.
    padding: One of `PADDINGS`.
  """
  return _plain_conv(
    features,
    size,
    stride,
    dtype,
    name,
    padding,
    kernel_init=HE,
    feature_group_count=features,
    conv_general_dilated=depthwise_conv_general_dilated,
  )


def _plain_conv(
  features: int,
  size: int,
  stride: int,
  dtype: Any,
  name: str,
  padding: str,
  **more: Any,
) -> nn.Conv:
  """Returns a convolution without bias; `more` are arguments of `nn.Conv`."""
  # The weights of a pretrained network need the padding of their training.
  pads = 'SAME' if padding == 'same' else ((size // 2, size // 2),) * 2
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=pads,
    use_bias=False,
    dtype=dtype,
    param_dtype=jnp.promote_types(jnp.float32, dtype),
    name=name,
    **more,
  )


def dense(
  features: int,
  use_bias: bool,
  dtype: Any,
  name: str,
  kernel_init: Initializer = LECUN,
) -> nn.Dense:
  """Returns a dense layer whose parameters are at least float32."""
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    param_dtype=jnp.promote_types(jnp.float32, dtype),
    kernel_init=kernel_init,
    name=name,
  )


def logits(
  x: Array,
  train: bool,
  num_classes: int,
  dtype: Any,
  head_norm: bool,
  kernel_init: Initializer = LECUN,
  epsilon: float = 1e-5,
) -> Array:
  """Applies the last layer of a network, `head`, and its norm, `head_norm`.

  Args:
    x: Batch, `(batch, features)`.
    train: True if the norm takes its statistics from the batch.
    num_classes: Number of logits.
    dtype: Dtype in which the dense layer computes.
    head_norm: True if a batch norm follows. The norm has a bias, so that the
      dense layer then has no bias.
    kernel_init: Initializer of the dense layer.
    epsilon: Constant added to the variance of the norm.

  Returns:
    Logits, `(batch, num_classes)`, of `dtype`, or float32 if that is wider.
  """
  wide = jnp.promote_types(jnp.float32, dtype)
  # bfloat16 is too coarse for the exponentials and sums of a loss.
  head = dense(num_classes, not head_norm, dtype, 'head', kernel_init)
  y = head(x).astype(wide)
  if not head_norm:
    return y
  return BatchNorm(wide, epsilon=epsilon, name='head_norm')(y, train)
