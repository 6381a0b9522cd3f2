"""Compares batches on the device with oracles in NumPy."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import batches


def test_steps_per_epoch_counts_full_batches() -> None:
  assert batches.steps_per_epoch(50_000, 128) == 390
  assert batches.steps_per_epoch(128, 128) == 1
  for size, batch in ((127, 128), (10, 0), (10, -1)):
    with pytest.raises(
      ValueError, match=f'batch_size={batch} must be from 1 to {size}'
    ):
      batches.steps_per_epoch(size, batch)


ORDER = jax.jit(batches.epoch_order, static_argnums=2)


@settings(max_examples=50, deadline=None)
@given(
  st.integers(0, 2**31 - 1), st.integers(0, 1000), st.sampled_from([1, 2, 37])
)
def test_epoch_order_is_permutation_of_seed_and_epoch(
  seed: int, epoch: int, size: int
) -> None:
  order = ORDER(seed, epoch, size)
  assert order.dtype == jnp.int32
  assert sorted(order.tolist()) == list(range(size))
  assert batches.epoch_order(seed, epoch, size).tolist() == order.tolist()


def test_epoch_order_seeds_and_epochs_differ() -> None:
  orders = {
    tuple(ORDER(seed, epoch, 50).tolist())
    for seed in range(4)
    for epoch in range(4)
  }
  assert len(orders) == 16
  assert tuple(range(50)) not in orders


def test_epoch_order_does_not_depend_on_default_generator() -> None:
  before = batches.epoch_order(3, 5, 20).tolist()
  with jax.default_prng_impl('rbg'):
    assert batches.epoch_order(3, 5, 20).tolist() == before


def random_split(size: int = 30, seed: int = 0) -> batches.Split:
  rng = np.random.default_rng(seed)
  images = rng.integers(1, 256, (size, 32, 32, 3), dtype=np.uint8)
  return batches.to_device(images, np.arange(size))


STATIC = ('batch_size', 'flip', 'padding')


def batch_of(split: batches.Split, index: Any = 0, **options: Any) -> Any:
  """A batch, compiled once for all tests of split size 30."""
  options = {'seed': 0, 'epoch': 0, 'flip': True, **options}
  batch_size = options.pop('batch_size', 8)
  return BATCH(split, index, batch_size=batch_size, **options)


def plain_batch(
  split: batches.Split, index: Any, *, seed: Any, epoch: Any, **options: Any
) -> Any:
  order = batches.epoch_order(seed, epoch, len(split.labels))
  batch_size = options.pop('batch_size')
  return batches.train_batch(
    split, order, index, batch_size, seed=seed, epoch=epoch, **options
  )


BATCH = jax.jit(plain_batch, static_argnames=STATIC)


def all_crops(image: np.ndarray, padding: int) -> dict[bytes, Any]:
  """Returns all crops of an image, and mirror images, by explicit padding."""
  wide = np.zeros((32 + 2 * padding, 32 + 2 * padding, 3), np.uint8)
  wide[padding : padding + 32, padding : padding + 32] = image
  found: dict[bytes, Any] = {}
  for top in range(2 * padding + 1):
    for left in range(2 * padding + 1):
      crop = wide[top : top + 32, left : left + 32]
      found[crop.tobytes()] = (top, left, False)
      found[crop[:, ::-1].tobytes()] = (top, left, True)
  return found


def as_bytes(batch: Any) -> list[tuple[int, bytes]]:
  pixels, labels = np.asarray(batch['input']), batch['label'].tolist()
  assert pixels.dtype == np.uint8
  return [(y, x.tobytes()) for x, y in zip(pixels, labels, strict=True)]


@pytest.mark.parametrize(
  ('flip', 'padding'), [(True, 4), (False, 4), (True, 1), (False, 0)]
)
def test_train_batch_image_is_crop_of_selected_image(
  flip: bool, padding: int
) -> None:
  split = random_split()
  options: Any = {'flip': flip, 'padding': padding}
  oracle = [all_crops(np.asarray(x), padding) for x in split.images]
  assert len(oracle[0]) == 2 * (2 * padding + 1) ** 2
  epochs = 200
  tops: Counter[int] = Counter()
  lefts: Counter[int] = Counter()
  mirrored = 0
  for epoch in range(epochs):
    for label, image in as_bytes(batch_of(split, epoch=epoch, **options)):
      top, left, mirror = oracle[label][image]
      tops[top] += 1
      lefts[left] += 1
      mirrored += mirror
  n = 8 * epochs
  shifts = 2 * padding + 1
  for counts in (tops, lefts):
    assert set(counts) == set(range(shifts))
    # Six standard deviations of a binomial count.
    slack = 6 * (n / shifts * (1 - 1 / shifts)) ** 0.5
    assert all(abs(c - n / shifts) <= slack for c in counts.values())
  if flip:
    assert abs(mirrored - n / 2) <= 6 * (n / 4) ** 0.5
  else:
    assert mirrored == 0


def test_train_batch_images_are_cropped_and_flipped_separately() -> None:
  split = random_split()
  oracle = [all_crops(np.asarray(x), 4) for x in split.images]
  batches = [as_bytes(batch_of(split, index)) for index in range(3)]
  for batch in batches:
    assert len({oracle[label][image] for label, image in batch}) >= 6
  drawn = [oracle[label][image] for batch in batches for label, image in batch]
  # The two shifts, and each shift and the flip, are independent.
  assert len({top - left for top, left, _ in drawn}) > 5
  assert {(top > 4, mirror) for top, _, mirror in drawn} == {
    (False, False),
    (False, True),
    (True, False),
    (True, True),
  }


def test_train_batch_follows_order_and_drops_remainder() -> None:
  split = random_split()
  order = ORDER(0, 2, 30)
  seen = []
  for index in range(batches.steps_per_epoch(30, 8)):
    seen += batch_of(split, index, epoch=2)['label'].tolist()
  assert seen == order[:24].tolist()
  options: Any = {'seed': 0, 'epoch': 2, 'flip': True}
  for index in (3, -1):
    with pytest.raises(ValueError, match=f'index={index} must be from 0 to 2'):
      batches.train_batch(split, order, index, 8, **options)
  with pytest.raises(ValueError, match='padding=-1 must be'):
    batch_of(split, padding=-1)
  with pytest.raises(ValueError, match='batch_size=31 must be'):
    batch_of(split, batch_size=31)


def test_train_batch_augmentation_depends_on_seed_epoch_and_index() -> None:
  # All images are equal, so batches differ only by crops and flips.
  images = np.random.default_rng(0).integers(1, 256, (1, 32, 32, 3), np.uint8)
  split = batches.to_device(images.repeat(30, axis=0), np.zeros(30, np.int32))

  seen = set()
  for seed, epoch, index in np.ndindex(3, 3, 2):
    twice = [
      as_bytes(batch_of(split, index, seed=seed, epoch=epoch)) for _ in range(2)
    ]
    assert twice[0] == twice[1]
    seen.add(tuple(twice[0]))
  assert len(seen) == 18


def test_normalised_train_batch_has_black_border() -> None:
  mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
  images = np.full((30, 32, 32, 3), (255, 0, 51), np.uint8)
  split = batches.to_device(images, np.zeros(30, np.int32))
  pixels = batch_of(split)['input']
  normalised = jax.jit(batches.normalised, static_argnums=3)
  image = normalised(pixels, mean, std, jnp.float32)
  assert image.dtype == jnp.float32
  colours = {
    tuple(np.round(c, 4).tolist())
    for c in np.asarray(image, np.float64).reshape(-1, 3)
  }
  # (1 - .4914)/.2023, (0 - .4822)/.1994, (.2 - .4465)/.2010; then for 0.
  assert colours == {
    (2.5141, -2.4183, -1.2264),
    (-2.4291, -2.4183, -2.2214),
  }
  low = normalised(pixels, mean, std, jnp.bfloat16)
  np.testing.assert_array_equal(low, image.astype(jnp.bfloat16))
  half = normalised(pixels, (0.5,) * 3, (0.5,) * 3, jnp.float32)
  values = np.unique(np.asarray(half, np.float64).round(4))
  assert values.tolist() == [-1, -0.6, 1]


@pytest.mark.parametrize(('size', 'batch'), [(360, 100), (360, 500), (12, 4)])
def test_eval_batch_masks_count_every_image_once(size: int, batch: int) -> None:
  split = random_split(size)

  @jax.jit
  def scan(split: batches.Split) -> Any:
    return jax.lax.map(
      lambda i: batches.eval_batch(split, i, batch),
      jnp.arange(-(-size // batch)),
    )

  got = scan(split)
  assert got['input'].shape[:2] == (-(-size // batch), batch)
  mask = np.asarray(got['mask'])
  assert set(mask.ravel().tolist()) <= {0.0, 1.0}
  assert got['label'][mask == 1].tolist() == list(range(size))
  np.testing.assert_array_equal(got['input'][mask == 1], split.images)


def test_to_device_wrong_arrays_raise() -> None:
  images = np.zeros((3, 32, 32, 3), np.uint8)
  split = batches.to_device(images, np.arange(3, dtype=np.int64))
  assert split.images.dtype == jnp.uint8
  assert split.labels.dtype == jnp.int32
  with pytest.raises(ValueError, match='images are float32'):
    batches.to_device(images.astype(np.float32), np.arange(3))
  with pytest.raises(ValueError, match=r'labels of shape \(2,\) do not fit 3'):
    batches.to_device(images, np.arange(2))
