"""Tests rectangles of crops against closed forms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from experiments.data import crops


def drawing(*uniforms, integers=0):
  """Returns a generator that draws the given numbers."""
  numbers = iter(uniforms)
  return SimpleNamespace(
    uniform=lambda low, high: next(numbers), integers=lambda end: integers
  )


def test_random_box_area_and_aspect_give_sides():
  # A quarter of 80 x 20 with aspect 4/3: sides are √(400·4/3) and √(400·3/4).
  rng = drawing(0.25, math.log(4 / 3), integers=2)
  assert crops.random_box(rng, 80, 20) == (2, 2, 25, 19)


def test_random_box_second_draw_is_used_if_first_does_not_fit():
  rng = drawing(1.0, 0.0, 0.25, 0.0)
  assert crops.random_box(rng, 80, 20) == (0, 0, 20, 20)


@pytest.mark.parametrize(
  ('size', 'box'),
  [
    ((1000, 12), (492, 0, 508, 12)),  # aspect 4/3
    ((12, 1000), (0, 492, 12, 508)),  # aspect 3/4
    ((40, 40), (0, 0, 40, 40)),
  ],
)
def test_random_box_without_fit_is_central(size, box):
  rng = drawing(*[8.0, 0.0] * 10)
  assert crops.random_box(rng, *size) == box


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
def test_random_box_is_within_photograph(width, height, seed):
  box = crops.random_box(np.random.default_rng(seed), width, height)
  left, top, right, bottom = box
  assert 0 <= left < right <= width
  assert 0 <= top < bottom <= height


def test_random_box_covers_declared_ranges():
  rng = np.random.default_rng(0)
  boxes = np.array([crops.random_box(rng, 3000, 3000) for _ in range(3000)])
  sides = boxes[:, 2:] - boxes[:, :2]
  area = sides.prod(axis=1) / 3000**2
  aspect = np.log(sides[:, 0] / sides[:, 1])
  assert 0.079 < area.min() < 0.09
  assert area.max() > 0.9
  limit = math.log(4 / 3)
  assert -limit - 1e-3 < aspect.min() < -0.98 * limit
  assert 0.98 * limit < aspect.max() < limit + 1e-3
  assert abs(aspect.mean()) < 0.02


def test_central_box_is_square_of_scaled_photograph():
  # 100 x 50 scaled to 512 x 256; the square is 144 to 368 of 512.
  scale = 50 / 256
  expected = (144 * scale, 16 * scale, 368 * scale, 240 * scale)
  assert crops.central_box(100, 50, 256, 224) == pytest.approx(expected)
  left, top, right, bottom = crops.central_box(50, 100, 256, 224)
  assert (top, left, bottom, right) == pytest.approx(expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_stored_box_selects_upright_part(orientation):
  stored = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = Image.fromarray(stored)
  image.getexif()[0x0112] = orientation
  expected = np.asarray(ImageOps.exif_transpose(image))
  np.testing.assert_array_equal(crops.upright(stored, orientation), expected)
  height, width, _ = expected.shape
  assert crops.stored_size(width, height, orientation) == (10, 6)
  box = (1, 2, 5, 4)
  left, top, right, bottom = crops.stored_box(box, width, height, orientation)
  np.testing.assert_array_equal(
    crops.upright(stored[top:bottom, left:right], orientation),
    expected[2:4, 1:5],
  )
