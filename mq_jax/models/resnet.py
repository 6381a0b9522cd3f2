"""The residual networks for CIFAR that the authors of MetaQuant trained.

The layers are a 3x3 convolution, three stages of basic blocks of 16, 32 and 64
channels, the mean over the image and a dense layer. Stages 2 and 3 start with
stride 2. If the shape changes, the shortcut is a 1x1 convolution with batch
normalisation (the paper's option B).

An activation quantizes the input of each convolution except the stem. The 1x1
convolution has the same input as the first convolution of its block. The sums
that identity shortcuts carry to the head are not quantized, but rectified. If
the activation is signed, the network has no ReLU. Its layers then have the
order of Bi-Real Net (activation, convolution, norm, sum), but one shortcut
spans two convolutions.

Paths of the parameters: `stem/kernel`, `stem_norm/scale`,
`stage1/block0/conv1/kernel`, `stage1/block0/norm1/scale`,
`stage2/block0/shortcut/kernel`, `stage2/block0/shortcut_norm/scale`,
`head/kernel`, `head/bias` or, with `head_norm`, `head_norm/scale`. A trained
number of the activation belongs to the convolution whose input it quantizes:
`stage1/block0/act1/number`, `stage1/block0/act2/number`.

References:
  He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. 2015.
  Section 4.2. https://arxiv.org/abs/1512.03385

  Liu, Wu, Luo, Yang, Liu, Cheng. Bi-Real Net. 2018.
  https://arxiv.org/abs/1808.00278
"""

from collections.abc import Callable
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
    relu = needs_relu(self.activation)
    conv_input = self._quantized(x, 'act1')
    y = self._conv(self.stride, 'conv1')(conv_input)
    y = BatchNorm(self.dtype, name='norm1')(y, train, relu=relu)
    y = self._quantized(y, 'act2')
    y = self._conv(1, 'conv2')(y)
    if self.stride != 1 or x.shape[-1] != self.features:
      # Recipes of binary networks keep this kernel in full precision, so there
      # are no bits to count.
      shortcut = layers.conv(
        self.features, 1, self.stride, self.dtype, 'shortcut'
      )
      shortcut_norm = BatchNorm(self.dtype, name='shortcut_norm')
      x = shortcut_norm(shortcut(conv_input), train)
    norm2 = BatchNorm(self.dtype, name='norm2')
    return norm2(y, train, shortcut=x, relu=relu)

  def _conv(self, stride: int, name: str) -> nn.Conv:
    return layers.conv(
      self.features, 3, stride, self.dtype, name, count_bits=self.count_bits
    )

  def _quantized(self, x: Array, name: str) -> Array:
    return quantized_input(x, self.activation, self.dtype, name)


class _Stage(nn.Module):
  """Blocks of one width; the first block has the stride."""

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
    blocks: Blocks per stage, n in a depth of 6n + 2.
    num_classes: Number of logits.
    dtype: Dtype in which the layers compute. Parameters, statistics and the
      result are of `dtype`, or float32 if that is wider.
    activation: Activation of the input of each convolution except the stem.
    head_norm: True if a batch norm follows the head.
    count_bits: True if 3x3 convolutions with a quantized input count bits on
      CPU, for inference: `net.clone(count_bits=True)`. `activation` must be
      binary. Kernels of these layers must be ±1 (`fold_scales`); this is not
      checked.
  """

  blocks: int
  num_classes: int
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
    x = layers.conv(WIDTHS[0], 3, 1, self.dtype, 'stem')(images)
    stem_norm = BatchNorm(self.dtype, name='stem_norm')
    x = stem_norm(x, train, relu=needs_relu(self.activation))
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
  *,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """Returns a residual network of the given depth.

  `net.init(key, images, train=False)` gives `params` and `batch_stats`;
  `net.apply(variables, images, train=True, mutable=['batch_stats'])` gives the
  logits and the new `batch_stats`.

  Args:
    depth: Number of layers on the longest path, 6n + 2: 20, 32, 44, 56, 110.
    num_classes: Number of logits.
    dtype: Dtype in which the layers compute; bfloat16 is for accelerators.
      Parameters and statistics are float32, or float64 if `dtype` is float64.
    activation: Activation that quantizes the input of each convolution except
      the stem. None keeps the output of the ReLU.
    head_norm: True if a batch norm replaces the bias of the head. Levels
      without a scale need a norm after each layer.

  Returns:
    A Linen module.

  Raises:
    ValueError: If an argument is out of range, or if jax has `dtype` disabled.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
  if depth < 8 or depth % 6 != 2:
    raise ValueError(
      f'depth={depth} must be 6n + 2 with n >= 1: 20, 32, 44, 56, 110.'
    )
  dtype = checked_dtype(num_classes, dtype, activation)
  return ResNet(depth // 6, num_classes, dtype, activation, head_norm)


def _with_depth(depth: int, weights: int) -> Callable[..., ResNet]:
  def network(
    num_classes: int = 10,
    *,
    dtype: Any = jnp.float32,
    activation: Activation | None = None,
    head_norm: bool = False,
  ) -> ResNet:
    return resnet(
      depth,
      num_classes,
      dtype=dtype,
      activation=activation,
      head_norm=head_norm,
    )

  network.__name__ = network.__qualname__ = f'resnet{depth}'
  network.__doc__ = (
    f'Returns ResNet{depth}: {weights:,} weights with 10 classes; see `resnet`.'
  )
  return network


resnet8 = _with_depth(8, weights=77_360)  # for tests
resnet20 = _with_depth(20, weights=270_896)
resnet32 = _with_depth(32, weights=464_432)
resnet44 = _with_depth(44, weights=657_968)
resnet56 = _with_depth(56, weights=851_504)
resnet110 = _with_depth(110, weights=1_722_416)
