"""The residual networks for CIFAR and for ImageNet.

The networks for CIFAR are those that the authors of MetaQuant trained: a 3x3
convolution and three stages of basic blocks of 16, 32 and 64 channels (section
4.2 of the paper). The networks for ImageNet have the layers of torchvision: a
7x7 convolution, max pooling and four stages of 64, 128, 256 and 512 channels.
`mq_jax.models.residual` describes the blocks and the paths of the parameters.

References:
  He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. 2015.
  https://arxiv.org/abs/1512.03385
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from mq_jax.activations import Activation
from mq_jax.models.checks import checked_dtype
from mq_jax.models.residual import ResNet


def resnet(
  depth: int,
  num_classes: int = 10,
  *,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
  head_norm: bool = False,
) -> ResNet:
  """Returns a residual network for CIFAR of the given depth.

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
      f'depth={depth} must be 6n + 2 with n >= 1: 20, 32, 44, 56, 110. The'
      ' networks for ImageNet are resnet18, resnet34 and resnet50.'
    )
  dtype = checked_dtype(num_classes, dtype, activation)
  return ResNet((depth // 6,) * 3, num_classes, dtype, activation, head_norm)


def _for_cifar(depth: int, weights: int) -> Callable[..., ResNet]:
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


def _for_imagenet(
  depth: int, blocks: tuple[int, ...], bottleneck: bool, parameters: int
) -> Callable[..., ResNet]:
  def network(
    num_classes: int = 1000,
    *,
    dtype: Any = jnp.float32,
    activation: Activation | None = None,
    head_norm: bool = False,
  ) -> ResNet:
    return ResNet(
      blocks,
      num_classes,
      checked_dtype(num_classes, dtype, activation),
      activation,
      head_norm,
      width=64,
      bottleneck=bottleneck,
      large_images=True,
    )

  network.__name__ = network.__qualname__ = f'resnet{depth}'
  network.__doc__ = (
    f"Returns torchvision's ResNet{depth} for ImageNet: {parameters:,}"
    ' parameters with 1000 classes.\n\n'
    '  The arguments and errors are those of `resnet`, without `depth`.'
  )
  return network


resnet8 = _for_cifar(8, weights=77_360)  # for tests
resnet20 = _for_cifar(20, weights=270_896)
resnet32 = _for_cifar(32, weights=464_432)
resnet44 = _for_cifar(44, weights=657_968)
resnet56 = _for_cifar(56, weights=851_504)
resnet110 = _for_cifar(110, weights=1_722_416)

resnet18 = _for_imagenet(18, (2, 2, 2, 2), False, parameters=11_689_512)
resnet34 = _for_imagenet(34, (3, 4, 6, 3), False, parameters=21_797_672)
resnet50 = _for_imagenet(50, (3, 4, 6, 3), True, parameters=25_557_032)
