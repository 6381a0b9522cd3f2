"""What networks refuse: arguments out of range, images that are none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.activations import Activation

Array = jax.Array


def checked_dtype(
  num_classes: int, dtype: Any, activation: Activation | None
) -> np.dtype:
  """The dtype, where the arguments of a network are in range.

  Args:
    num_classes: Number of logits.
    dtype: In which the layers compute.
    activation: What quantizes the inputs of the layers, or None.

  Returns:
    `dtype` as a NumPy dtype.

  Raises:
    ValueError: If `num_classes` is below 1, or `dtype` is no floating point
      type, or float64 where jax has it switched off.
    TypeError: If `activation` is neither an `Activation` nor None.
  """
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
  if activation is not None and not isinstance(activation, Activation):
    raise TypeError(
      f'activation={activation!r} must be a mq_jax.activations.Activation, such'
      ' as Activation(bi_real_sign, signed=True, binary=True), or None'
    )
  return dtype


def check_counting(activation: Activation | None, train: bool) -> None:
  """Raises `ValueError` where a network cannot count bits.

  Args:
    activation: What quantizes the inputs of the layers, or None.
    train: Whether this is a training pass.
  """
  if activation is None or not activation.binary:
    raise ValueError(
      f'count_bits=True, but activation={activation!r} is not said to give -1'
      ' and +1 only: take one that does, such as Activation(bi_real_sign,'
      ' signed=True, binary=True), or net.clone(count_bits=False)'
    )
  if train:
    raise ValueError(
      'count_bits=True is for inference, with kernels of -1 and +1: train'
      ' net.clone(count_bits=False)'
    )


def check_images(images: Array) -> None:
  """Raises `ValueError` at images of another rank, dtype or order of axes.

  Args:
    images: To be `(batch, height, width, channels)`, floating point.
  """
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
