"""Batches made on the device, from uint8 images in its memory.

The order of an epoch and a training batch depend only on (seed, epoch, index).
Both can be made inside jit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.data.raw_examples import Floats3

Array = jax.Array

# These numbers are larger than any step that a run folds into a key.
_ORDER, _AUGMENT = 0xDA7A0001, 0xDA7A0002


class Split(NamedTuple):
  """A part of a data set on the device.

  Attributes:
    images: uint8 of shape (N, H, W, C).
    labels: int32 of shape (N,).
  """

  images: Array
  labels: Array


def to_device(images: np.ndarray, labels: np.ndarray) -> Split:
  """Puts a whole split on the device.

  Args:
    images: uint8 of shape (N, H, W, C).
    labels: Integers of shape (N,).

  Returns:
    The `Split`.

  Raises:
    ValueError: If the arrays have other types or ranks, or differ in length.
  """
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f'images are {images.dtype} of shape {images.shape}; they must be uint8'
      ' of shape (N, H, W, C).'
    )
  if labels.shape != images.shape[:1]:
    raise ValueError(
      f'labels of shape {labels.shape} do not fit {len(images)} images.'
    )
  return Split(jnp.asarray(images), jnp.asarray(labels, jnp.int32))


def steps_per_epoch(size: int, batch_size: int) -> int:
  """Returns the number of full batches in `size` images.

  The images that remain are left out of the epoch.

  Raises:
    ValueError: If `batch_size` is below 1 or there is no full batch.
  """
  if not 1 <= batch_size <= size:
    raise ValueError(
      f'batch_size={batch_size} must be from 1 to {size}, the number of images.'
    )
  return size // batch_size


def _key(seed: int | Array, use: int) -> Array:
  # The generator is fixed, because jax.config may choose one that gives other
  # numbers on several devices.
  key = jax.random.key(seed, impl='threefry2x32')
  return jax.random.fold_in(key, np.uint32(use))


def epoch_order(seed: int | Array, epoch: int | Array, size: int) -> Array:
  """Returns the order of the images in an epoch, a function of (seed, epoch).

  Args:
    seed: Seed of the run; may be traced.
    epoch: Epoch, from 0; may be traced.
    size: Number of images.

  Returns:
    A permutation of 0 ... size - 1, int32 of shape (size,).
  """
  key = jax.random.fold_in(_key(seed, _ORDER), epoch)
  return jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))


def train_batch(
  split: Split,
  order: Array,
  index: int | Array,
  batch_size: int,
  *,
  seed: int | Array,
  epoch: int | Array,
  flip: bool,
  padding: int = 4,
) -> dict[str, Array]:
  """Returns one batch of training images, cropped and flipped.

  Each image is padded with `padding` black pixels, cropped to its own size at a
  random place, and mirrored with probability 1/2.

  Args:
    split: The training split.
    order: Order of this epoch, from `epoch_order`.
    index: Number of the batch in its epoch, 0 to `steps_per_epoch` - 1; a
      traced value is not checked.
    batch_size: Number of images, B.
    seed: Seed of the run; may be traced.
    epoch: Epoch, from 0; may be traced.
    flip: Mirror images at random.
    padding: Number of pixels around an image; 0 leaves out the crop.

  Returns:
    'input' uint8 of shape (B, H, W, C), 'label' int32 of shape (B,).

  Raises:
    ValueError: If the padding is negative or there is no such batch.
  """
  steps = steps_per_epoch(len(order), batch_size)
  if padding < 0:
    raise ValueError(f'padding={padding} must be at least 0.')
  if isinstance(index, int) and not 0 <= index < steps:
    raise ValueError(f'index={index} must be from 0 to {steps - 1}.')
  chosen = lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
  key = jax.random.fold_in(_key(seed, _AUGMENT), epoch)
  key = jax.random.fold_in(key, index)
  images = _augmented(split.images, chosen, key, flip, padding)
  return {'input': images, 'label': split.labels[chosen]}


def _augmented(
  images: Array, chosen: Array, key: Array, flip: bool, padding: int
) -> Array:
  """Gathers, crops and mirrors at once, without a padded copy."""
  batch, (height, width) = len(chosen), images.shape[1:3]
  crop_key, flip_key = jax.random.split(key)
  shift = jax.random.randint(
    crop_key, (2, batch, 1), -padding, padding + 1, jnp.int32
  )
  rows = shift[0] + jnp.arange(height)[None]
  columns = shift[1] + jnp.arange(width)[None]
  if flip:
    mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
    columns = jnp.where(mirrored, width - 1 - columns, columns)
  rows, columns = rows[:, :, None], columns[:, None, :]
  inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
  pixels = images[
    chosen[:, None, None],
    jnp.clip(rows, 0, height - 1),
    jnp.clip(columns, 0, width - 1),
  ]
  return jnp.where(inside[..., None], pixels, jnp.uint8(0))


def normalised(
  images: Array, mean: Floats3, std: Floats3, dtype: jax.typing.DTypeLike
) -> Array:
  """Scales pixels to [0, 1], subtracts `mean` and divides by `std`.

  Args:
    images: uint8 of shape (B, H, W, C).
    mean: Mean of each channel, with pixels in [0, 1].
    std: Standard deviation of each channel, with pixels in [0, 1].
    dtype: Type of the result; it is computed in float32 or wider.
  """
  shape = (1, 1, 1, -1)
  wide = jnp.promote_types(dtype, jnp.float32)
  centre = jnp.asarray(mean, wide).reshape(shape)
  scale = jnp.asarray(std, wide).reshape(shape)
  return ((images.astype(wide) / 255 - centre) / scale).astype(dtype)


def eval_batch(
  split: Split, index: int | Array, batch_size: int
) -> dict[str, Array]:
  """Returns one batch of images in their order, unchanged.

  Args:
    split: Usually the test split.
    index: Number of the batch, from 0; may be traced.
    batch_size: Number of images, B.

  Returns:
    'input' uint8 of shape (B, H, W, C), 'label' int32 of shape (B,), and 'mask'
    float32 of shape (B,): 1 for an image, 0 for the padding of the last batch.
    Over all batches every image has the mask 1 exactly once.
  """
  places = index * batch_size + jnp.arange(batch_size)
  chosen = jnp.minimum(places, len(split.labels) - 1)
  return {
    'input': split.images[chosen],
    'label': split.labels[chosen],
    'mask': (places < len(split.labels)).astype(jnp.float32),
  }
