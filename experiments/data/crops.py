"""Rectangles that photographs are cropped to, and their turns by EXIF.

A rectangle is (left, top, right, bottom) in pixels; fractions are allowed.
"""

import math

import numpy as np

Box = tuple[float, float, float, float]

# Limits of a random crop, of torchvision's RandomResizedCrop and the ImageNet
# recipes: part of the area, and width over height.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
_TRIES = 10

# Values of EXIF's tag Orientation. From 5 on, rows and columns are exchanged
# first; then these mirror the image left to right, or top to bottom.
_TRANSPOSED = 5
_MIRRORED = {2, 3, 6, 7}
_UPSIDE_DOWN = {3, 4, 7, 8}


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
  """Returns a random rectangle, as torchvision's RandomResizedCrop draws it.

  Args:
    rng: Generator that this call advances.
    width: Width of the upright photograph in pixels.
    height: Height of the upright photograph in pixels.

  Returns:
    A rectangle of whole pixels. After ten draws that do not fit, it is the
    largest central rectangle whose aspect is allowed.
  """
  narrow, wide = map(math.log, ASPECT)
  for _ in range(_TRIES):
    area = width * height * rng.uniform(*AREA)
    aspect = math.exp(rng.uniform(narrow, wide))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      left = int(rng.integers(width - w + 1))
      top = int(rng.integers(height - h + 1))
      return left, top, left + w, top + h
  w, h = width, height
  if width / height < ASPECT[0]:
    h = round(width / ASPECT[0])
  elif width / height > ASPECT[1]:
    w = round(height * ASPECT[1])
  left, top = (width - w) // 2, (height - h) // 2
  return left, top, left + w, top + h


def central_box(width: int, height: int, resize: int, size: int) -> Box:
  """Returns the rectangle of a test image.

  It is the central square of `size` pixels of the photograph whose short side
  is scaled to `resize` pixels, in coordinates of the original photograph.

  Args:
    width: Width of the upright photograph in pixels.
    height: Height of the upright photograph in pixels.
    resize: Short side in pixels after scaling.
    size: Side of the crop in pixels, at most `resize`.
  """
  short = min(width, height)
  scaled = [resize * side // short for side in (width, height)]
  box = []
  for side, new in zip((width, height), scaled, strict=True):
    start = round((new - size) / 2)
    box.append((start * side / new, (start + size) * side / new))
  (left, right), (top, bottom) = box
  return left, top, right, bottom


def stored_size(width: int, height: int, orientation: int) -> tuple[int, int]:
  """Exchanges width and height if the orientation does; its own inverse."""
  is_turned = orientation >= _TRANSPOSED
  return (height, width) if is_turned else (width, height)


def stored_box(box: Box, width: int, height: int, orientation: int) -> Box:
  """Returns the rectangle of a file that is upright in the given rectangle.

  Args:
    box: Rectangle of the upright photograph.
    width: Width of the upright photograph in pixels.
    height: Height of the upright photograph in pixels.
    orientation: Value of EXIF's tag, 1 to 8.
  """
  left, top, right, bottom = box
  if orientation in _MIRRORED:
    left, right = width - right, width - left
  if orientation in _UPSIDE_DOWN:
    top, bottom = height - bottom, height - top
  if orientation >= _TRANSPOSED:
    return top, left, bottom, right
  return left, top, right, bottom


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns pixels of a file upright.

  Args:
    pixels: Array of shape (height, width, channels).
    orientation: Value of EXIF's tag, 1 to 8.
  """
  if orientation >= _TRANSPOSED:
    pixels = pixels.transpose(1, 0, 2)
  if orientation in _MIRRORED:
    pixels = pixels[:, ::-1]
  return pixels[::-1] if orientation in _UPSIDE_DOWN else pixels
