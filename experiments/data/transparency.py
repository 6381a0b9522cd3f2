"""Transparent pixels of images, which become white."""

from PIL import Image

_BACKGROUND = (255, 255, 255, 255)  # As on a page.


def on_white(image: Image.Image) -> Image.Image:
  """Returns an image in RGB, its transparent pixels mixed with white."""
  if not image.has_transparency_data:
    return image.convert('RGB')
  colours = image.convert('RGBA')
  background = Image.new('RGBA', image.size, _BACKGROUND)
  return Image.alpha_composite(background, colours).convert('RGB')
