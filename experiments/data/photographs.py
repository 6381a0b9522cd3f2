"""Decodes one photograph to RGB, and inspects whether that is possible.

simplejpeg decodes ordinary JPEG files, scaled by 1/2, 1/4 or 1/8 where a crop
stays at least as large as the result. Pillow decodes all other files.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import (
  ExifTags,
  Image,
  ImageOps,
  TiffImagePlugin,
  UnidentifiedImageError,
)

from experiments.data.crops import (
  Box,
  central_box,
  stored_box,
  stored_size,
  upright,
)
from experiments.data.transparency import check_transparency, on_white

_JPEG = b'\xff\xd8'
_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_DEPTH = 24  # Place of the number of bits per channel in a PNG file.
_FAST_SPACES = ('YCbCr', 'Gray', 'RGB')
_GREY_MODES = ('1', 'L', 'LA', 'La')
_DEEP = 65535

# Conversions that a report counts.
CMYK, GREY, DEEP, TURNED, ALPHA = 'CMYK', 'grey', '16-bit', 'turned', 'alpha'
KINDS = (CMYK, GREY, DEEP, TURNED, ALPHA)


class BadImageError(ValueError):
  """The content of a file is not a complete image."""


class Inspection(NamedTuple):
  """The result of the inspection of a photograph.

  Attributes:
    orientation: Value of EXIF's tag, 1 to 8.
    kinds: Conversions that decoding applies, some of `KINDS`.
  """

  orientation: int
  kinds: tuple[str, ...]


def inspect(content: bytes) -> Inspection:
  """Decodes a whole file once.

  Args:
    content: Content of the file.

  Raises:
    BadImageError: If the file is empty, truncated, damaged or not an image.
  """
  if not content:
    raise BadImageError('the file is empty')
  with _bad_images(), Image.open(io.BytesIO(content)) as image:
    _check_depth(image)
    orientation = _orientation(image)
    is_deep = image.mode.startswith('I') or (
      content.startswith(_PNG) and content[_PNG_DEPTH] == 16
    )
    found = {
      CMYK: image.mode == 'CMYK',
      GREY: image.mode in _GREY_MODES or image.mode.startswith('I'),
      DEEP: is_deep,
      TURNED: orientation > 1,
      ALPHA: image.has_transparency_data,
    }
    if not _decodes_fast(content):
      _to_rgb(image)
  return Inspection(orientation, tuple(kind for kind in KINDS if found[kind]))


def crop(
  content: bytes,
  orientation: int,
  choose: Callable[[int, int], Box],
  size: int,
) -> np.ndarray:
  """Decodes a part of a photograph, scaled to a square.

  Args:
    content: Content of the file.
    orientation: Value of EXIF's tag, from `inspect`.
    choose: `(width, height) -> box`, the part of the upright photograph.
    size: Side of the result in pixels.

  Returns:
    uint8 of shape (size, size, 3).

  Raises:
    BadImageError: If the content is not a complete image.
  """
  if (fast := _fast_size(content)) is not None:
    width, height = stored_size(*fast, orientation)
    box = choose(width, height)
    with contextlib.suppress(ValueError):
      pixels = _fast_crop(
        content, fast, stored_box(box, width, height, orientation), size
      )
      return upright(pixels, orientation)
    # Pillow also reads files with harmless errors, and names harmful ones.
  else:
    box = None
  with _bad_images(), Image.open(io.BytesIO(content)) as image:
    _check_depth(image)
    colours = _to_rgb(image)
    box = box or choose(*colours.size)
    return np.asarray(
      colours.resize((size, size), Image.Resampling.BILINEAR, box=box)
    )


def central_crop(
  content: bytes, orientation: int, resize: int, size: int
) -> np.ndarray:
  """Decodes a photograph as a test sees it.

  Args:
    content: Content of the file.
    orientation: Value of EXIF's tag, from `inspect`.
    resize: Short side in pixels that the photograph is scaled to.
    size: Side in pixels of the central crop, at most `resize`.

  Returns:
    uint8 of shape (size, size, 3).

  Raises:
    BadImageError: If the content is not a complete image.
  """
  choose = functools.partial(central_box, resize=resize, size=size)
  return crop(content, orientation, choose, size)


def _fast_size(content: bytes) -> tuple[int, int] | None:
  """Returns width and height of a file for simplejpeg; None for another one."""
  if not content.startswith(_JPEG):
    return None
  try:
    height, width, space, _ = simplejpeg.decode_jpeg_header(content)
  except ValueError:
    return None
  return (width, height) if space in _FAST_SPACES else None


def _fast_crop(
  content: bytes, stored: tuple[int, int], box: Box, size: int
) -> np.ndarray:
  """Decodes a JPEG file as small as the crop allows, and scales the crop."""
  width, height = stored
  left, top, right, bottom = box
  # The factors by which the crop may shrink before it is smaller than `size`.
  least_width = int(np.ceil(width * size / (right - left)))
  least_height = int(np.ceil(height * size / (bottom - top)))
  pixels = simplejpeg.decode_jpeg(
    content,
    min_width=least_width if least_width <= width else width,
    min_height=least_height if least_height <= height else height,
    min_factor=2,
  )
  x, y = pixels.shape[1] / width, pixels.shape[0] / height
  scaled = (left * x, top * y, right * x, bottom * y)
  image = Image.fromarray(pixels)
  return np.asarray(
    image.resize((size, size), Image.Resampling.BILINEAR, box=scaled)
  )


def _decodes_fast(content: bytes) -> bool:
  """Returns True if simplejpeg decodes the whole file without any warning."""
  if _fast_size(content) is None:
    return False
  try:
    # The smallest scale still reads the file to its end.
    simplejpeg.decode_jpeg(content, min_width=1, min_height=1)
  except ValueError:
    return False
  return True


def _orientation(image: Image.Image) -> int:
  """Returns EXIF's orientation; 1 if it is missing or damaged."""
  try:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # The parser has no common base class of errors.
    return 1
  return orientation if orientation in range(1, 9) else 1


def _check_depth(image: Image.Image) -> None:
  """Refuses values that Pillow returns without their range.

  Args:
    image: Image that was opened and not loaded yet.
  """
  check_transparency(image)
  if isinstance(image, TiffImagePlugin.TiffImageFile) and (
    image.mode.startswith('I')
  ):
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) != (1,):
      raise BadImageError('its grey values are signed')
    if bits != (16,):
      raise BadImageError(f'its grey values have {bits[0]} bits, not 8 or 16')
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
      raise BadImageError('0 is white in its grey values of 16 bits')


def _to_rgb(image: Image.Image) -> Image.Image:
  """Loads an image; returns it upright and with 8 bits per channel."""
  image.load()
  if _orientation(image) > 1:
    image = ImageOps.exif_transpose(image)
  if image.mode == 'F':
    raise BadImageError('its pixels are floating-point numbers')
  if image.mode.startswith('I'):
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _DEEP:
      raise BadImageError('its pixels have more than 16 bits')
    grey = (values * 255 + _DEEP // 2) // _DEEP
    return Image.fromarray(grey.astype(np.uint8)).convert('RGB')
  return on_white(image)


@contextlib.contextmanager
def _bad_images() -> Iterator[None]:
  """Replaces the errors that Pillow raises for a file that is not an image."""
  try:
    yield
  except BadImageError:
    raise
  except UnidentifiedImageError as error:
    raise BadImageError('it is not an image') from error
  except Exception as error:  # The decoders have no common base class.
    if isinstance(error, MemoryError):
      raise
    raise BadImageError(str(error) or type(error).__name__) from error


# A large photograph is valid. Pillow still refuses more than 179 megapixels.
warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
