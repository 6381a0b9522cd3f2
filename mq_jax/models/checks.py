"""Checks of the arguments and the images of networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.activations import Activation
from mq_jax.checks import check_at_least

Array = jax.Array


def checked_dtype(
  num_classes: int, dtype: Any, activation: Activation | None
) -> np.dtype:
  """Returns `dtype` as a NumPy dtype after checking a network's arguments.

  Raises:
    ValueError: If `num_classes` is below 1, or `dtype` is not a floating point
      type or is float64 while jax has it disabled.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
  check_at_least(1, num_classes=num_classes)
  dtype = jnp.dtype(dtype)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'dtype={dtype} is not a floating point type. Use float32 or bfloat16.'
    )
  if dtype == jnp.float64 and jnp.result_type(float) != jnp.float64:
    raise ValueError(
      'dtype=float64 is disabled in jax. Call'
      " jax.config.update('jax_enable_x64', True) first."
    )
  if activation is not None and not isinstance(activation, Activation):
    raise TypeError(
      f'activation={activation!r} must be a mq_jax.activations.Activation, such'
      ' as Activation(bi_real_sign, signed=True, binary=True), or None.'
    )
  return dtype


def check_counting(activation: Activation | None, train: bool) -> None:
  """Raises `ValueError` unless a network with `activation` can count bits."""
  if activation is None or not activation.binary:
    raise ValueError(
      f'count_bits=True, but activation={activation!r} is not declared to give'
      ' -1 and +1 only. Use one that is, such as Activation(bi_real_sign,'
      ' signed=True, binary=True), or net.clone(count_bits=False).'
    )
  if train:
    raise ValueError(
      'count_bits=True is for inference with kernels of -1 and +1. Train'
      ' net.clone(count_bits=False) instead.'
    )


def check_images(images: Array, smallest_side: int = 1) -> None:
  """Raises `ValueError` if the shape, dtype or order of axes is wrong.

  Args:
    images: Floating point, with axes `(batch, height, width, channels)`.
    smallest_side: Minimum of height and width that the network can pool. With
      1, the sides are not compared, so they may be symbolic (`jax.export`).
  """
  if images.ndim != 4:
    raise ValueError(
      'images must have the axes (batch, height, width, channels), not the'
      f' shape {images.shape}. Reshape them.'
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'images must be normalised floating point numbers, not {images.dtype}.'
      ' Scale to 0…1, subtract the mean and divide by the deviation.'
    )
  if images.shape[1] == 3 and images.shape[3] != 3:
    raise ValueError(
      f'images of shape {images.shape} have their channels first. Move them'
      ' to the end with jnp.moveaxis(images, 1, -1).'
    )
  if smallest_side > 1 and any(
    side < smallest_side for side in images.shape[1:3]
  ):
    raise ValueError(
      f'images of shape {images.shape} are too small to be pooled. Use sides of'
      f' at least {smallest_side}.'
    )
