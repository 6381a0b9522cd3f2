"""Residual networks for CIFAR, as the authors of MetaQuant trained them.

A 3x3 convolution, three stages of basic blocks of 16, 32 and 64 channels, the
mean over the image, one dense layer. Stages 2 and 3 start with stride 2. Where
the shape changes, the shortcut is a 1x1 convolution with batch normalisation
(the paper's option B).

An activation quantizes the input of each convolution but the stem's; the 1x1
convolution sees what the block's first one sees. What travels on along the
identity shortcuts to the head is not quantized. It is rectified, unless the
activation is signed: then the network has no ReLU, and the order is that of
Bi-Real Net, activation, convolution, norm, sum, but with one shortcut around
two convolutions.

Paths of the parameters: `stem/kernel`, `stem_norm/scale`,
`stage1/block0/conv1/kernel`, `stage1/block0/norm1/scale`,
`stage2/block0/shortcut/kernel`, `stage2/block0/shortcut_norm/scale`,
`head/kernel`, `head/bias` or, where there is one, `head_norm/scale`. A trained
number of the activation belongs to the convolution whose input it quantizes:
`stage1/block0/act1/number`, `stage1/block0/act2/number`.

References:
  He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. 2015.
  Section 4.2. https://arxiv.org/abs/1512.03385

  Liu, Wu, Luo, Yang, Liu, Cheng. Bi-Real Net. 2018.
  https://arxiv.org/abs/1808.00278
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mq_jax.activations import Activation
from mq_jax.models import layers
from mq_jax.models.activation import quantized_input, rectifies
from mq_jax.models.batch_norm import BatchNorm
from mq_jax.models.checks import check_counting, check_images, checked_dtype

Array = jax.Array
WIDTHS = (16, 32, 64)


class _Block(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  features: int
  stride: int
  dtype: Any
  activation: Activation | None
  count_bits: bool

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    relu = rectifies(self.activation)
    seen = self._quantized(x, 'act1')
    y = self._conv(self.stride, 'conv1')(seen)
    y = BatchNorm(self.dtype, name='norm1')(y, train, relu=relu)
    y = self._quantized(y, 'act2')
    y = self._conv(1, 'conv2')(y)
    if self.stride != 1 or x.shape[-1] != self.features:
      # In full precision in the recipes of binary networks: it counts no bits.
      shortcut = layers.conv(
        self.features, 1, self.stride, self.dtype, 'shortcut'
      )
      x = BatchNorm(self.dtype, name='shortcut_norm')(shortcut(seen), train)
    norm2 = BatchNorm(self.dtype, name='norm2')
    return norm2(y, train, shortcut=x, relu=relu)

  def _conv(self, stride: int, name: str) -> nn.Conv:
    return layers.conv(
      self.features,
      3,
      stride,
      self.dtype,
      name,
      count_bits=self.count_bits,
    )

  def _quantized(self, x: Array, name: str) -> Array:
    return quantized_input(x, self.activation, self.dtype, name)


class _Stage(nn.Module):
  """Blocks of one width; the first one has the stride."""

  features: int
  blocks: int
  stride: int
  dtype: Any
  activation: Activation | None
  count_bits: bool

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    for i in range(self.blocks):
      block = _Block(
        self.features,
        self.stride if i == 0 else 1,
        self.dtype,
        self.activation,
        self.count_bits,
        name=f'block{i}',
      )
      x = block(x, train)
    return x


class ResNet(nn.Module):
  """A residual network for small images; `resnet` checks its arguments.

  Attributes:
    blocks: Blocks a stage, n in a depth of 6n + 2.
    num_classes: Length of the result.
    dtype: In which the layers compute. Parameters, statistics and the result
      are of `dtype`, or float32 where that is wider.
    activation: Of the input of each convolution but the stem's, or None.
    head_norm: Whether a batch norm follows the head.
    count_bits: Whether 3x3 convolutions whose input is quantized count bits on
      CPU, for inference: `net.clone(count_bits=True)`. `activation` must be
      binary and these layers' kernels ±1 (`fold_scales`), which nothing checks.
  """

  blocks: int
  num_classes: int
  dtype: Any
  activation: Activation | None = None
  head_norm: bool = False
  count_bits: bool = False

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """The logits of a batch of images.

    Args:
      images: `(batch, height, width, channels)`, normalised; sides of 32 in
        CIFAR.
      train: Whether batch normalisation takes its statistics from the batch;
        `apply` then needs `mutable=['batch_stats']`.

    Returns:
      `(batch, num_classes)`.

    Raises:
      ValueError: If `images` are of another rank, dtype or order of axes, or
        `count_bits` in training or with another activation.
    """
    check_images(images)
    if self.count_bits:
      check_counting(self.activation, train)
    x = layers.conv(WIDTHS[0], 3, 1, self.dtype, 'stem')(images)
    stem_norm = BatchNorm(self.dtype, name='stem_norm')
    x = stem_norm(x, train, relu=rectifies(self.activation))
    for i, features in enumerate(WIDTHS, start=1):
      stage = _Stage(
        features,
        self.blocks,
        1 if i == 1 else 2,
        self.dtype,
        self.activation,
        self.count_bits,
        name=f'stage{i}',
      )
      x = stage(x, train)
    x = jnp.mean(x, axis=(1, 2))
    return layers.logits(x, train, self.num_classes, self.dtype, self.head_norm)


def resnet(
  depth: int,
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """A residual network of any depth there is.

  `net.init(key, images, train=False)` gives `params` and `batch_stats`;
  `net.apply(variables, images, train=True, mutable=['batch_stats'])` gives the
  logits and the new `batch_stats`.

  Args:
    depth: Number of layers on the longest path, 6n + 2: 20, 32, 44, 56, 110.
    num_classes: Number of logits.
    dtype: In which the layers compute: bfloat16 is for accelerators. Parameters
      and statistics are float32 whatever it is, float64 where it is float64.
    activation: Quantizes the input of each convolution but the stem's; None:
      they stay what the ReLU gives.
    head_norm: Whether a batch norm takes the place of the head's bias: levels
      without a scale need one behind each layer.

  Returns:
    A Linen module.

  Raises:
    ValueError: If an argument is out of range, or `dtype` is float64 where jax
      has it switched off.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
  if depth < 8 or depth % 6 != 2:
    raise ValueError(
      f'depth={depth}, but there are depths of 6n + 2: 20, 32, 44, 56, 110'
    )
  dtype = checked_dtype(num_classes, dtype, activation)
  return ResNet(depth // 6, num_classes, dtype, activation, head_norm)


def resnet8(
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """ResNet8: 77,360 weights with 10 classes, for tests; see `resnet`."""
  return resnet(8, num_classes, dtype, activation, head_norm)


def resnet20(
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """ResNet20: 270,896 weights with 10 classes; see `resnet`."""
  return resnet(20, num_classes, dtype, activation, head_norm)


def resnet32(
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """ResNet32: 464,432 weights with 10 classes; see `resnet`."""
  return resnet(32, num_classes, dtype, activation, head_norm)


def resnet44(
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """ResNet44: 657,968 weights with 10 classes; see `resnet`."""
  return resnet(44, num_classes, dtype, activation, head_norm)


def resnet56(
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """ResNet56: 851,504 weights with 10 classes; see `resnet`."""
  return resnet(56, num_classes, dtype, activation, head_norm)


def resnet110(
  num_classes: int = 10,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """ResNet110: 1,722,416 weights with 10 classes; see `resnet`."""
  return resnet(110, num_classes, dtype, activation, head_norm)
