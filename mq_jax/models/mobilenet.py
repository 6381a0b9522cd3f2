"""MobileNetV2: inverted residual blocks of depthwise convolutions.

A block expands its input by a 1x1 convolution, filters each channel by a 3x3
depthwise convolution, and projects the result to few channels by another 1x1
convolution. A norm and a ReLU6 follow the first two; only a norm follows the
third (a linear bottleneck). The identity is added if the shape does not change.

An activation quantizes the inputs of convolutions. Without a sign it quantizes
those that follow a ReLU6, which are the inputs of `depthwise` and `project`:
the outputs of the bottlenecks, which `expand` and `last` read, are signed. A
signed activation replaces the ReLU6 and quantizes the input of each convolution
except the stem. The input of the head is not quantized.

Paths of the parameters: `stem/kernel`, `stem_norm/scale`,
`block1/expand/kernel`, `block1/expand_norm/scale`, `block1/depthwise/kernel`,
`block1/depthwise_norm/scale`, `block1/project/kernel`,
`block1/project_norm/scale`, ..., `last/kernel`, `last_norm/scale`,
`head/kernel`, `head/bias` or, with `head_norm`, `head_norm/scale`. `block0` has
no `expand`. A trained number of the activation belongs to the convolution whose
input it quantizes: `block0/project_act/number`.

References:
  Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and
  Linear Bottlenecks. 2018. Table 2. https://arxiv.org/abs/1801.04381
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mq_jax.activations import Activation
from mq_jax.models import layers
from mq_jax.models.activation import needs_relu, quantized_input
from mq_jax.models.batch_norm import BatchNorm
from mq_jax.models.checks import check_counting, check_images, checked_dtype

Array = jax.Array
STEM, LAST = 32, 1280
# Expansion, channels, number of blocks and first stride (the paper's Table 2).
GROUPS = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
HEAD_INIT = nn.initializers.normal(0.01)


def _divisible(channels: float, divisor: int = 8) -> int:
  """Returns a multiple of `divisor` near `channels`, at least 90 % of it.

  This is `_make_divisible` of TensorFlow's and torchvision's MobileNets.
  """
  rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return rounded if rounded >= 0.9 * channels else rounded + divisor


def layer_channels(width: float) -> tuple[int, ...]:
  """Returns the output channels of the stem, of each block and of `last`.

  Args:
    width: Factor of the channels, above 0.
  """
  blocks = (
    _divisible(channels * width)
    for _, channels, count, _ in GROUPS
    for _ in range(count)
  )
  last = _divisible(LAST * max(1.0, width))
  return _divisible(STEM * width), *blocks, last


class _Block(nn.Module):
  """An inverted residual block with a linear bottleneck."""

  expansion: int
  features: int
  stride: int
  padding: str
  dtype: Any
  activation: Activation | None
  count_bits: bool

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    hidden = x.shape[-1] * self.expansion
    y = x
    if self.expansion != 1:
      if not needs_relu(self.activation):
        y = self._quantized(y, 'expand_act')
      y = self._conv1x1(hidden, 'expand')(y)
      y = _clipped_norm(y, train, self.activation, self.dtype, 'expand_norm')
    y = self._quantized(y, 'depthwise_act')
    y = layers.depthwise_conv(
      hidden, 3, self.stride, self.dtype, 'depthwise', self.padding
    )(y)
    y = _clipped_norm(y, train, self.activation, self.dtype, 'depthwise_norm')
    y = self._quantized(y, 'project_act')
    y = self._conv1x1(self.features, 'project')(y)
    is_identity = self.stride == 1 and x.shape[-1] == self.features
    return BatchNorm(self.dtype, name='project_norm')(
      y, train, shortcut=x if is_identity else None
    )

  def _conv1x1(self, features: int, name: str) -> nn.Conv:
    return layers.conv(
      features, 1, 1, self.dtype, name, count_bits=self.count_bits
    )

  def _quantized(self, x: Array, name: str) -> Array:
    return quantized_input(x, self.activation, self.dtype, name)


def _clipped_norm(
  x: Array,
  train: bool,
  activation: Activation | None,
  dtype: Any,
  name: str,
) -> Array:
  """Applies a norm and, unless the activation is signed, a ReLU6."""
  norm = BatchNorm(dtype, name=name)
  return norm(x, train, relu=needs_relu(activation), top=6.0)


class MobileNetV2(nn.Module):
  """MobileNetV2; `mobilenet_v2` checks its arguments.

  Attributes:
    num_classes: Number of logits.
    width: Factor of the channels of all layers.
    padding: Padding of convolutions with stride 2, 'torch' or 'same'.
    dtype: Dtype in which the layers compute. Parameters, statistics and the
      result are of `dtype`, or float32 if that is wider.
    activation: Activation of the inputs of convolutions.
    head_norm: True if a batch norm follows the head.
    count_bits: True if 1x1 convolutions count bits, as in `ResNet`.
  """

  num_classes: int
  width: float
  padding: str
  dtype: Any
  activation: Activation | None = None
  head_norm: bool = False
  count_bits: bool = False

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns the logits of a batch of images.

    Args:
      images: Normalised images, `(batch, height, width, channels)`.
      train: True if batch normalisation takes its statistics from the batch;
        `apply` then needs `mutable=['batch_stats']`.

    Returns:
      Logits, `(batch, num_classes)`.

    Raises:
      ValueError: If `images` have another rank, dtype or order of axes, or
        `count_bits` is set in training or without a binary activation.
    """
    check_images(images)
    if self.count_bits:
      check_counting(self.activation, train)
    channels = layer_channels(self.width)
    stem = layers.conv(
      channels[0],
      3,
      2,
      self.dtype,
      'stem',
      padding=self.padding,
    )
    x = stem(images)
    x = _clipped_norm(x, train, self.activation, self.dtype, 'stem_norm')
    blocks = [
      (expansion, stride if i == 0 else 1)
      for expansion, _, count, stride in GROUPS
      for i in range(count)
    ]
    for i, (expansion, stride) in enumerate(blocks):
      block = _Block(
        expansion,
        channels[i + 1],
        stride,
        self.padding,
        self.dtype,
        self.activation,
        self.count_bits,
        name=f'block{i}',
      )
      x = block(x, train)
    if not needs_relu(self.activation):
      x = quantized_input(x, self.activation, self.dtype, 'last_act')
    last = layers.conv(
      channels[-1], 1, 1, self.dtype, 'last', count_bits=self.count_bits
    )
    x = last(x)
    x = _clipped_norm(x, train, self.activation, self.dtype, 'last_norm')
    return layers.logits(
      jnp.mean(x, axis=(1, 2)),
      train,
      self.num_classes,
      self.dtype,
      self.head_norm,
      HEAD_INIT,
    )


def mobilenet_v2(
  num_classes: int = 1000,
  *,
  width: float = 1.0,
  padding: str = 'torch',
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> MobileNetV2:
  """Returns MobileNetV2: 3,504,872 parameters with 1000 classes.

  It has the layers of torchvision, without the dropout before the head.
  `net.init(key, images, train=False)` gives `params` and `batch_stats`;
  `net.apply(variables, images, train=True, mutable=['batch_stats'])` gives the
  logits and the new `batch_stats`.

  Args:
    num_classes: Number of logits.
    width: Factor of the channels of all layers, above 0. Channels are rounded
      to multiples of 8, and the last layer before the head keeps at least 1280.
    padding: 'torch' pads all sides by one pixel. 'same' is TensorFlow's
      padding: with stride 2 and an even side, only below and to the right.
      Weights give good results only with the padding they were trained with.
    dtype: Dtype in which the layers compute; bfloat16 is for accelerators.
      Parameters and statistics are float32, or float64 if `dtype` is float64.
    activation: Activation that quantizes the inputs of convolutions. Without a
      sign it quantizes only the inputs that follow a ReLU6, those of the
      depthwise and the projecting convolutions. A signed activation replaces
      the ReLU6, and quantizes the inputs of all convolutions but the stem.
    head_norm: True if a batch norm replaces the bias of the head. Levels
      without a scale need a norm after each layer.

  Returns:
    A Linen module.

  Raises:
    ValueError: If an argument is out of range, or if jax has `dtype` disabled.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
  if not 0 < width < math.inf:
    raise ValueError(f'width={width} must be a number above 0.')
  if padding not in layers.PADDINGS:
    raise ValueError(
      f'padding={padding!r} must be one of {", ".join(layers.PADDINGS)}.'
    )
  dtype = checked_dtype(num_classes, dtype, activation)
  return MobileNetV2(num_classes, width, padding, dtype, activation, head_norm)
