"""Residual networks: a stem, stages of blocks, the mean and a dense layer.

Each stage has twice the channels of the stage before it, and all stages except
the first start with stride 2. A basic block has two 3x3 convolutions. A
bottleneck has a 1x1, a 3x3 and a 1x1 convolution; the last has four times the
channels of the stage, and the stride is in the 3x3 convolution. If the shape
changes, the shortcut is a 1x1 convolution with batch normalisation (the paper's
option B).

An activation quantizes the input of each convolution except the stem. The 1x1
convolution of a shortcut has the same input as the first convolution of its
block. The sums that identity shortcuts carry to the head are not quantized, but
rectified. If the activation is signed, the network has no ReLU. Its layers then
have the order of Bi-Real Net (activation, convolution, norm, sum), but one
shortcut spans all convolutions of a block.

Paths of the parameters: `stem/kernel`, `stem_norm/scale`,
`stage1/block0/conv1/kernel`, `stage1/block0/norm1/scale`,
`stage2/block0/shortcut/kernel`, `stage2/block0/shortcut_norm/scale`,
`head/kernel`, `head/bias` or, with `head_norm`, `head_norm/scale`. A trained
number of the activation belongs to the convolution whose input it quantizes:
`stage1/block0/act1/number`, `stage1/block0/act2/number`.

References:
  He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. 2015.
  https://arxiv.org/abs/1512.03385

  Liu, Wu, Luo, Yang, Liu, Cheng. Bi-Real Net. 2018.
  https://arxiv.org/abs/1808.00278
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mq_jax.activations import Activation
from mq_jax.models import layers
from mq_jax.models.activation import needs_relu, quantized_input
from mq_jax.models.batch_norm import BatchNorm
from mq_jax.models.checks import check_counting, check_images

Array = jax.Array
# The last convolution of a bottleneck has 4 times the channels of its stage.
EXPANSION = 4


class _Conv(NamedTuple):
  """One convolution of a block: its channels, side and stride."""

  features: int
  size: int
  stride: int


def _convolutions(
  width: int, stride: int, bottleneck: bool
) -> tuple[_Conv, ...]:
  """Returns the convolutions of a block in a stage of `width` channels."""
  if bottleneck:
    return (
      _Conv(width, 1, 1),
      _Conv(width, 3, stride),
      _Conv(EXPANSION * width, 1, 1),
    )
  return _Conv(width, 3, stride), _Conv(width, 3, 1)


class _Block(nn.Module):
  """Convolutions and a shortcut."""

  convolutions: tuple[_Conv, ...]
  dtype: Any
  activation: Activation | None
  count_bits: bool

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    relu = needs_relu(self.activation)
    y = conv_input = self._quantized(x, 'act1')
    last = len(self.convolutions)
    for i, (features, size, stride) in enumerate(self.convolutions, start=1):
      if i > 1:
        y = self._quantized(y, f'act{i}')
      conv = layers.conv(
        features,
        size,
        stride,
        self.dtype,
        f'conv{i}',
        count_bits=self.count_bits,
      )
      y = conv(y)
      if i < last:
        y = BatchNorm(self.dtype, name=f'norm{i}')(y, train, relu=relu)
    stride = max(conv.stride for conv in self.convolutions)
    if stride != 1 or x.shape[-1] != features:
      # Recipes of binary networks keep this kernel in full precision, so there
      # are no bits to count.
      shortcut = layers.conv(features, 1, stride, self.dtype, 'shortcut')
      shortcut_norm = BatchNorm(self.dtype, name='shortcut_norm')
      x = shortcut_norm(shortcut(conv_input), train)
    last_norm = BatchNorm(self.dtype, name=f'norm{last}')
    return last_norm(y, train, shortcut=x, relu=relu)

  def _quantized(self, x: Array, name: str) -> Array:
    return quantized_input(x, self.activation, self.dtype, name)


class _Stage(nn.Module):
  """Blocks of one width; the first block has the stride."""

  width: int
  blocks: int
  stride: int
  bottleneck: bool
  dtype: Any
  activation: Activation | None
  count_bits: bool

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    for i in range(self.blocks):
      stride = self.stride if i == 0 else 1
      block = _Block(
        _convolutions(self.width, stride, self.bottleneck),
        self.dtype,
        self.activation,
        self.count_bits,
        name=f'block{i}',
      )
      x = block(x, train)
    return x


class ResNet(nn.Module):
  """A residual network; `resnet` and `resnet18` check its arguments.

  Attributes:
    blocks: Number of blocks of each stage.
    num_classes: Number of logits.
    dtype: Dtype in which the layers compute. Parameters, statistics and the
      result are of `dtype`, or float32 if that is wider.
    activation: Activation of the input of each convolution except the stem.
    head_norm: True if a batch norm follows the head.
    count_bits: True if convolutions with a quantized input, except those of
      shortcuts, count bits on CPU, for inference: `net.clone(count_bits=True)`.
      `activation` must be binary. Kernels of these layers must be ±1
      (`fold_scales`); this is not checked.
    width: Channels of the first stage.
    bottleneck: True for bottlenecks, False for basic blocks.
    large_images: True if the stem divides the sides by 4, by a 7x7 convolution
      of stride 2 and a 3x3 max pooling of stride 2; False if the stem is a 3x3
      convolution of stride 1.
  """

  blocks: tuple[int, ...]
  num_classes: int
  dtype: Any
  activation: Activation | None = None
  head_norm: bool = False
  count_bits: bool = False
  width: int = 16
  bottleneck: bool = False
  large_images: bool = False

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
    size, stride = (7, 2) if self.large_images else (3, 1)
    x = layers.conv(self.width, size, stride, self.dtype, 'stem')(images)
    stem_norm = BatchNorm(self.dtype, name='stem_norm')
    x = stem_norm(x, train, relu=needs_relu(self.activation))
    if self.large_images:
      # jax2onnx ignores padding here, and takes these arguments by name only.
      sides = ((0, 0), (1, 1), (1, 1), (0, 0))
      x = jnp.pad(x, sides, constant_values=-jnp.inf)
      x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
    for i, blocks in enumerate(self.blocks):
      stage = _Stage(
        self.width * 2**i,
        blocks,
        1 if i == 0 else 2,
        self.bottleneck,
        self.dtype,
        self.activation,
        self.count_bits,
        name=f'stage{i + 1}',
      )
      x = stage(x, train)
    x = jnp.mean(x, axis=(1, 2))
    return layers.logits(x, train, self.num_classes, self.dtype, self.head_norm)
