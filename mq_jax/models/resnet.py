"""Residual networks for CIFAR, as the authors of MetaQuant trained them.

A 3x3 convolution, three stages of basic blocks of 16, 32 and 64 channels, the
mean over the image, one dense layer. Stages 2 and 3 start with stride 2. Where
the shape changes, the shortcut is a 1x1 convolution with batch normalisation
(the paper's option B).

Paths of the parameters: `stem/kernel`, `stem_norm/scale`,
`stage1/block0/conv1/kernel`, `stage1/block0/norm1/scale`,
`stage2/block0/shortcut/kernel`, `stage2/block0/shortcut_norm/scale`,
`head/kernel`, `head/bias`.

References:
  He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. 2015.
  Section 4.2. https://arxiv.org/abs/1512.03385
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mq_jax.models.batch_norm import BatchNorm
from mq_jax.models.convolution import conv_general_dilated

Array = jax.Array
WIDTHS = (16, 32, 64)


def _conv(
  features: int, size: int, stride: int, dtype: Any, name: str
) -> nn.Conv:
  """A convolution without bias whose output is 1 / stride of its input."""
  # Not 'SAME': with stride 2 that pads only below and to the right, and every
  # weight would meet another pixel than it was trained on.
  pad = size // 2
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=((pad, pad), (pad, pad)),
    use_bias=False,
    dtype=dtype,
    param_dtype=jnp.promote_types(jnp.float32, dtype),
    kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    conv_general_dilated=conv_general_dilated,
    name=name,
  )


class _Block(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  features: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    y = _conv(self.features, 3, self.stride, self.dtype, 'conv1')(x)
    y = BatchNorm(self.dtype, name='norm1')(y, train, relu=True)
    y = _conv(self.features, 3, 1, self.dtype, 'conv2')(y)
    if self.stride != 1 or x.shape[-1] != self.features:
      x = _conv(self.features, 1, self.stride, self.dtype, 'shortcut')(x)
      x = BatchNorm(self.dtype, name='shortcut_norm')(x, train)
    norm2 = BatchNorm(self.dtype, name='norm2')
    return norm2(y, train, shortcut=x, relu=True)


class _Stage(nn.Module):
  """Blocks of one width; the first one has the stride."""

  features: int
  blocks: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    for i in range(self.blocks):
      stride = self.stride if i == 0 else 1
      name = f'block{i}'
      x = _Block(self.features, stride, self.dtype, name=name)(x, train)
    return x


class ResNet(nn.Module):
  """A residual network for small images; `resnet` checks its arguments.

  Attributes:
    blocks: Blocks a stage, n in a depth of 6n + 2.
    num_classes: Length of the result.
    dtype: In which the layers compute. Parameters, statistics and the result
      are of `dtype`, or float32 where that is wider.
  """

  blocks: int
  num_classes: int
  dtype: Any

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
      ValueError: If `images` are of another rank, dtype or order of axes.
    """
    _check_images(images)
    wide = jnp.promote_types(jnp.float32, self.dtype)
    x = _conv(WIDTHS[0], 3, 1, self.dtype, 'stem')(images)
    x = BatchNorm(self.dtype, name='stem_norm')(x, train, relu=True)
    for i, features in enumerate(WIDTHS, start=1):
      stride = 1 if i == 1 else 2
      x = _Stage(features, self.blocks, stride, self.dtype, name=f'stage{i}')(
        x, train
      )
    x = jnp.mean(x, axis=(1, 2))
    head = nn.Dense(
      self.num_classes, dtype=self.dtype, param_dtype=wide, name='head'
    )
    # A loss takes exponentials and sums: those of bfloat16 are too coarse.
    return head(x).astype(wide)


def _check_images(images: Array) -> None:
  if images.ndim != 4:
    raise ValueError(
      'images must have the axes (batch, height, width, channels), got the'
      f' shape {images.shape}'
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'images must be normalised floating point numbers, got {images.dtype}:'
      ' scale to 0…1, subtract the mean and divide by the deviation'
    )
  if images.shape[1] == 3 and images.shape[3] != 3:
    raise ValueError(
      f'images of shape {images.shape} have their channels first: move them'
      ' to the end with jnp.moveaxis(images, 1, -1)'
    )


def resnet(
  depth: int, num_classes: int = 10, dtype: Any = jnp.float32
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

  Returns:
    A Linen module.

  Raises:
    ValueError: If an argument is out of range, or `dtype` is float64 where jax
      has it switched off.
  """
  if depth < 8 or depth % 6 != 2:
    raise ValueError(
      f'depth={depth}, but there are depths of 6n + 2: 20, 32, 44, 56, 110'
    )
  if num_classes < 1:
    raise ValueError(f'num_classes={num_classes} must be at least 1')
  dtype = jnp.dtype(dtype)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f'dtype={dtype} is not a floating point type')
  if dtype == jnp.float64 and jnp.result_type(float) != jnp.float64:
    raise ValueError(
      'dtype=float64, but jax computes in float32 until'
      " jax.config.update('jax_enable_x64', True)"
    )
  return ResNet(depth // 6, num_classes, dtype)


def resnet8(num_classes: int = 10, dtype: Any = jnp.float32) -> ResNet:
  """ResNet8: 77,360 weights with 10 classes, for tests; see `resnet`."""
  return resnet(8, num_classes, dtype)


def resnet20(num_classes: int = 10, dtype: Any = jnp.float32) -> ResNet:
  """ResNet20: 270,896 weights with 10 classes; see `resnet`."""
  return resnet(20, num_classes, dtype)


def resnet32(num_classes: int = 10, dtype: Any = jnp.float32) -> ResNet:
  """ResNet32: 464,432 weights with 10 classes; see `resnet`."""
  return resnet(32, num_classes, dtype)


def resnet44(num_classes: int = 10, dtype: Any = jnp.float32) -> ResNet:
  """ResNet44: 657,968 weights with 10 classes; see `resnet`."""
  return resnet(44, num_classes, dtype)


def resnet56(num_classes: int = 10, dtype: Any = jnp.float32) -> ResNet:
  """ResNet56: 851,504 weights with 10 classes; see `resnet`."""
  return resnet(56, num_classes, dtype)


def resnet110(num_classes: int = 10, dtype: Any = jnp.float32) -> ResNet:
  """ResNet110: 1,722,416 weights with 10 classes; see `resnet`."""
  return resnet(110, num_classes, dtype)
