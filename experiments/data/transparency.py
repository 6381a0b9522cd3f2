"""Transparent pixels of images, which become white."""

from PIL import Image, ImageFile

_BACKGROUND = (255, 255, 255, 255)  # As on a page.
# Modes of PNG files in which Pillow finds the pixels of a colour.
_FOUND_IN = {'1', 'L', 'RGB'}


def check_transparency(image: Image.Image) -> None:
  """Refuses a transparent colour whose pixels Pillow does not find.

  Pillow compares the transparent colour of a PNG file, which has the bits of
  the file, with pixels of 8 bits.

  Args:
    image: Image that was opened and not loaded yet.

  Raises:
    ValueError: If the colour does not have 1 or 8 bits per channel.
  """
  if not isinstance(image, ImageFile.ImageFile) or image.format != 'PNG':
    return
  raw_modes = {str(tile.args) for tile in image.tile}
  has_colour = 'transparency' in image.info and image.mode != 'P'
  if has_colour and not raw_modes <= _FOUND_IN:
    raise ValueError(
      'its transparent colour does not have 8 bits per channel, so Pillow does'
      ' not find its pixels; save it with 8 bits or with an alpha channel'
    )


def on_white(image: Image.Image) -> Image.Image:
  """Returns an image in RGB, its transparent pixels mixed with white."""
  if not image.has_transparency_data:
    return image.convert('RGB')
  colours = image.convert('RGBA')
  background = Image.new('RGBA', image.size, _BACKGROUND)
  return Image.alpha_composite(background, colours).convert('RGB')
