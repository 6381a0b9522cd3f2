"""Plain networks for CIFAR: pairs of 3x3 convolutions, each pair pooled.

Both networks have pairs of convolutions of 128, 256 and 512 channels. Norm and
ReLU follow the first of a pair; max pooling, norm and ReLU follow the second.
VGG-Small ends with one dense layer over all pixels, LAB's network with three.
An activation quantizes the input of each layer except the first. A signed
activation replaces the ReLU.

Paths of the parameters: `conv1/kernel`, `norm1/scale`, ..., `conv6/kernel`;
`dense1/kernel`, `dense1_norm/scale`; `head/kernel`, `head/bias` or, with
`head_norm`, `head_norm/scale`. A trained number of the activation belongs to
the layer whose input it quantizes: `act2/number`, ..., `act6/number`,
`dense1_act/number`, `head_act/number`.

References:
  Zhang, Yang, Ye, Hua. LQ-Nets: Learned Quantization for Highly Accurate and
  Compact Deep Neural Networks. 2018. https://arxiv.org/abs/1807.10029

  Hou, Yao, Kwok. Loss-aware Binarization of Deep Networks. 2017.
  https://arxiv.org/abs/1611.01600
"""

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


class _VGG(nn.Module):
  """Pairs of convolutions, dense layers and a head.

  Attributes:
    num_classes: Number of logits.
    dtype: Dtype in which the layers compute.
    activation: Activation of the input of each layer except the first.
    head_norm: True if a batch norm follows the head.
    dense: Widths of the dense layers before the head.
    widths: Channels of each pair of convolutions.
    epsilon: Constant that the norms add to the variance.
    conv_init: Initializer of the convolutions.
    dense_init: Initializer of the dense layers and the head.
    count_bits: True if convolutions count bits, as in `ResNet`.
  """

  num_classes: int
  dtype: Any
  activation: Activation | None
  head_norm: bool
  dense: tuple[int, ...] = ()
  widths: tuple[int, ...] = (128, 256, 512)
  epsilon: float = 1e-5
  conv_init: layers.Initializer = layers.HE
  dense_init: layers.Initializer = layers.LECUN
  count_bits: bool = False

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    """Returns the logits of a batch of images.

    Args:
      images: Normalised images, `(batch, height, width, channels)`, with sides
        of 32 in CIFAR and of at least 8.
      train: True if batch normalisation takes its statistics from the batch;
        `apply` then needs `mutable=['batch_stats']`.

    Returns:
      Logits, `(batch, num_classes)`.

    Raises:
      ValueError: If `images` have another rank, dtype or order of axes, or are
        too small to be pooled, or `count_bits` is set in training or without a
        binary activation.
    """
    check_images(images, 2 ** len(self.widths))
    if self.count_bits:
      check_counting(self.activation, train)
    features = [width for width in self.widths for _ in range(2)]
    x = images
    for i, width in enumerate(features, start=1):
      if i > 1:
        x = self._quantized(x, f'act{i}')
      conv = layers.conv(
        width,
        3,
        1,
        self.dtype,
        f'conv{i}',
        self.conv_init,
        count_bits=self.count_bits and i > 1,
      )
      x = conv(x)
      if i % 2 == 0:
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
      x = self._normalised(x, train, f'norm{i}')
    x = x.reshape(x.shape[0], -1)
    for i, width in enumerate(self.dense, start=1):
      name = f'dense{i}'
      x = self._quantized(x, f'{name}_act')
      x = layers.dense(width, False, self.dtype, name, self.dense_init)(x)
      x = self._normalised(x, train, f'{name}_norm')
    return layers.logits(
      self._quantized(x, 'head_act'),
      train,
      self.num_classes,
      self.dtype,
      self.head_norm,
      self.dense_init,
      self.epsilon,
    )

  def _quantized(self, x: Array, name: str) -> Array:
    return quantized_input(x, self.activation, self.dtype, name)

  def _normalised(self, x: Array, train: bool, name: str) -> Array:
    norm = BatchNorm(self.dtype, epsilon=self.epsilon, name=name)
    return norm(x, train, relu=needs_relu(self.activation))


def vgg_small(
  num_classes: int = 10,
  *,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> nn.Module:
  """Returns VGG-Small of LQ-Nets: 4,656,512 weights with 10 classes.

  128C3×2-MP2-256C3×2-MP2-512C3×2-MP2-10. `net.init(key, images, train=False)`
  gives `params` and `batch_stats`; `net.apply(variables, images, train=True,
  mutable=['batch_stats'])` gives the logits and the new `batch_stats`.

  Args:
    num_classes: Number of logits.
    dtype: Dtype in which the layers compute; bfloat16 is for accelerators.
      Parameters and statistics are float32, or float64 if `dtype` is float64.
    activation: Activation that quantizes the inputs of all layers except the
      first. None keeps the output of the ReLU.
    head_norm: True if a batch norm replaces the bias of the head. Levels
      without a scale need a norm after each layer.

  Returns:
    A Linen module.

  Raises:
    ValueError: If an argument is out of range, or if jax has `dtype` disabled.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
  dtype = checked_dtype(num_classes, dtype, activation)
  return _VGG(num_classes, dtype, activation, head_norm)


def labnet(
  num_classes: int = 10,
  *,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = True,
) -> nn.Module:
  """Returns the CIFAR-10 network of LAB: 14,022,016 weights with 10 classes.

  (2×128C3)-MP2-(2×256C3)-MP2-(2×512C3)-MP2-(2×1024FC)-10, with a batch norm
  after every layer, including the last. Weights start uniformly between
  ±√(1.5 / (fan_in + fan_out)). Call it like `vgg_small`.

  Args:
    num_classes: Number of logits.
    dtype: Dtype in which the layers compute; see `vgg_small`.
    activation: Activation that quantizes the inputs of all layers except the
      first. None keeps the output of the ReLU.
    head_norm: True if a batch norm replaces the bias of the head.

  Returns:
    A Linen module.

  Raises:
    ValueError: If an argument is out of range, or if jax has `dtype` disabled.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
  dtype = checked_dtype(num_classes, dtype, activation)
  return _VGG(
    num_classes,
    dtype,
    activation,
    head_norm,
    dense=(1024, 1024),
    epsilon=1e-4,
    conv_init=layers.HALF_GLOROT,
    dense_init=layers.HALF_GLOROT,
  )
