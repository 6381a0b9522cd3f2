"""Tests the decoding of photographs of every kind."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data import photographs
from experiments.data.photographs import BadImageError, Inspection
from tests.experiments.data.photo_files import encoded, jpeg, picture


def whole(width, height):
  return 0, 0, width, height


def decode(content, size=12, choose=whole, orientation=None):
  if orientation is None:
    orientation = photographs.inspect(content).orientation
  return photographs.crop(content, orientation, choose, size).astype(int)


def resampled(pixels, box, size):
  """Returns a triangle filter of the whole image, in float64."""
  left, top, right, bottom = box
  for axis, (low, high) in enumerate(((top, bottom), (left, right))):
    scale = (high - low) / size
    centres = low + (np.arange(size) + 0.5) * scale
    places = np.arange(pixels.shape[axis]) + 0.5
    distances = np.abs(places - centres[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distances, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
  return pixels


@pytest.mark.parametrize('box', [(3, 5, 43, 31), (10.5, 4.25, 18.5, 12.75)])
def test_crop_png_matches_triangle_filter(box):
  pixels = np.random.default_rng(0).integers(0, 256, (36, 48, 3), np.uint8)
  got = decode(encoded(pixels, 'PNG'), choose=lambda w, h: box)
  expected = resampled(pixels.astype(np.float64), box, 12)
  assert np.abs(got - expected).max() < 1.01  # Pillow rounds twice.


def test_crop_jpeg_matches_pillow_on_all_pixels():
  content = jpeg(0, 64, 48)
  box = (5, 3, 15, 13)  # Below the size of the result, so it is not scaled.
  with Image.open(io.BytesIO(content)) as image:
    expected = resampled(np.asarray(image, np.float64), box, 12)
  got = decode(content, choose=lambda w, h: box)
  assert np.abs(got - expected).max() < 1.01


@pytest.mark.parametrize('factor', [2, 4, 8])
def test_crop_scaled_jpeg_is_close_to_crop_of_all_pixels(factor):
  pixels = picture(3, 160, 96)
  box = (8, 16, 8 + 8 * factor, 16 + 8 * factor)
  got = decode(encoded(pixels), 8, lambda w, h: box)
  expected = resampled(pixels.astype(np.float64), box, 8)
  assert np.abs(got - expected).max() < 4


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'TIFF'])
def test_crop_turned_photograph_is_upright(orientation, form):
  pixels = picture(1, 24, 16)
  turned = Image.fromarray(pixels)
  turned.getexif()[0x0112] = orientation
  exif = turned.getexif()
  content = encoded(turned, form, exif=exif)
  found = photographs.inspect(content)
  assert found.orientation == orientation
  assert (photographs.TURNED in found.kinds) == (orientation > 1)
  if form == 'JPEG':
    pixels = np.asarray(Image.open(io.BytesIO(content)))
  upright = {
    1: pixels,
    2: pixels[:, ::-1],
    3: pixels[::-1, ::-1],
    4: pixels[::-1],
    5: pixels.transpose(1, 0, 2),
    6: np.rot90(pixels, -1),
    7: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(pixels),
  }[orientation]
  box = (2, 1, 14, 13)
  sizes = []

  def choose(width, height):
    sizes.append((height, width))
    return box

  got = decode(content, 12, choose)
  assert sizes == [upright.shape[:2]]
  np.testing.assert_array_equal(got, upright[1:13, 2:14])


def test_inspect_invalid_orientation_is_upright():
  image = Image.fromarray(picture(0))
  image.getexif()[0x0112] = 9
  content = encoded(image, exif=image.getexif())
  assert photographs.inspect(content) == Inspection(1, ())


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_inspect_damaged_exif_is_upright(form):
  exif = b'Exif\0\0MM\0*\0\0\0\x08\xff\xff' + bytes(range(40))
  content = encoded(picture(0), form, exif=exif)
  assert photographs.inspect(content) == Inspection(1, ())
  assert decode(content).shape == (12, 12, 3)


def solid(colour, mode):
  return Image.new(mode, (20, 16), colour)


@pytest.mark.parametrize(
  ('image', 'form', 'kinds', 'colour'),
  [
    (solid((200, 30, 60), 'RGB'), 'JPEG', (), (200, 30, 60)),
    (solid((200, 30, 60), 'RGB'), 'WEBP', (), (200, 30, 60)),
    (solid((200, 30, 60), 'RGB'), 'BMP', (), (200, 30, 60)),
    (solid(77, 'L'), 'JPEG', ('grey',), (77,) * 3),
    (solid(77, 'L'), 'PNG', ('grey',), (77,) * 3),
    (solid(1, '1'), 'PNG', ('grey',), (255,) * 3),
    # 30,840 = 120 · 257
    (solid(30_840, 'I;16'), 'PNG', ('grey', '16-bit'), (120,) * 3),
    (solid(65_535, 'I;16'), 'TIFF', ('grey', '16-bit'), (255,) * 3),
    # Pillow converts CMYK without a profile: 255 − C, less black.
    (solid((0, 255, 128, 0), 'CMYK'), 'JPEG', ('CMYK',), (255, 0, 127)),
    (solid((0, 255, 128, 0), 'CMYK'), 'TIFF', ('CMYK',), (255, 0, 127)),
    (solid((10, 20, 30, 255), 'RGBA'), 'PNG', ('alpha',), (10, 20, 30)),
    (solid((10, 20, 30, 0), 'RGBA'), 'PNG', ('alpha',), (255,) * 3),
    (solid((9, 0), 'LA'), 'PNG', ('grey', 'alpha'), (255,) * 3),
    (solid((40, 80, 120), 'RGB').quantize(4), 'GIF', (), (40, 80, 120)),
  ],
)
def test_crop_mode_becomes_rgb(image, form, kinds, colour):
  content = encoded(image, form)
  assert photographs.inspect(content) == Inspection(1, kinds)
  got = decode(content)
  assert got.shape == (12, 12, 3)
  assert np.abs(got - colour).max() <= (4 if form in ('JPEG', 'WEBP') else 0)


def test_crop_rgb_of_16_bits_keeps_high_byte():
  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  row = b'\0' + struct.pack('>3H', 51_400, 257, 65_535) * 16
  content = (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', struct.pack('>2I5B', 16, 16, 16, 2, 0, 0, 0))
    + chunk(b'IDAT', zlib.compress(row * 16))
    + chunk(b'IEND', b'')
  )
  assert photographs.inspect(content) == Inspection(1, ('16-bit',))
  np.testing.assert_array_equal(decode(content)[0, 0], [200, 1, 255])


def test_crop_animation_is_first_frame():
  frames = [solid((c, 0, 0), 'RGB') for c in (200, 100)]
  content = encoded(frames[0], 'PNG', save_all=True, append_images=frames[1:])
  np.testing.assert_array_equal(decode(content)[3, 3], [200, 0, 0])


PHOTO = jpeg(2, 64, 48)
BITS, PHOTOMETRIC, SIGNS = 258, 262, 339  # Tags of TIFF.


def tiff_of_16_bits(tag, old, new):
  """Returns a white TIFF file, of which a value of one tag is changed."""
  content = encoded(Image.new('I;16', (16, 16), 65535), 'TIFF')
  entry = struct.pack('<HHIH', tag, 3, 1, old)
  assert content.count(entry) == 1
  return content.replace(entry, struct.pack('<HHIH', tag, 3, 1, new))


def png_with_transparent_colour(bits, mode):
  """Returns a PNG file of 16 pixels per line, all of them transparent."""
  channels = len(mode)
  sample = 1 if bits < 8 else 0x3264 >> (16 - bits)
  line = f'{sample:0{bits}b}' * 16 * channels

  def chunk(name, content):
    check = struct.pack('>I', zlib.crc32(name + content))
    return struct.pack('>I', len(content)) + name + content + check

  kind = {'L': 0, 'RGB': 2}[mode]
  data = b'\0' + int(line, 2).to_bytes(len(line) // 8, 'big')
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    chunk(*of)
    for of in (
      (b'IHDR', struct.pack('>2I5B', 16, 16, bits, kind, 0, 0, 0)),
      (b'tRNS', struct.pack('>H', sample) * channels),
      (b'IDAT', zlib.compress(data * 16)),
      (b'IEND', b''),
    )
  )


@pytest.mark.parametrize(('bits', 'mode'), [(1, 'L'), (8, 'L'), (8, 'RGB')])
def test_crop_transparent_colour_is_white(bits, mode):
  content = png_with_transparent_colour(bits, mode)
  assert 'alpha' in photographs.inspect(content).kinds
  assert (photographs.crop(content, 1, whole, 8) == 255).all()


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'the file is empty'),
    (b'a text', 'it is not an image'),
    (PHOTO[: len(PHOTO) // 2], 'truncated'),
    (PHOTO[:-200], 'truncated'),
    (PHOTO[:20], 'not an image|[Tt]runcated'),
    (encoded(picture(0), 'PNG')[:-400], 'truncated|broken'),
    (encoded(Image.new('F', (9, 9)), 'TIFF'), 'floating-point'),
    (tiff_of_16_bits(PHOTOMETRIC, 1, 0), '0 is white'),
    (tiff_of_16_bits(BITS, 16, 12), 'grey values have 12 bits'),
    (
      encoded(Image.new('I;16', (16, 16), 9), 'TIFF', tiffinfo={SIGNS: 2}),
      'grey values are signed',
    ),
    *(
      (png_with_transparent_colour(*of), 'not have 8 bits per channel')
      for of in ((2, 'L'), (4, 'L'), (16, 'L'), (16, 'RGB'))
    ),
  ],
)
def test_inspect_damaged_raises(content, message):
  with pytest.raises(BadImageError, match=message):
    photographs.inspect(content)
  with pytest.raises(BadImageError):
    photographs.crop(content, 1, whole, 8)


def test_inspect_jpeg_with_harmless_error_is_decoded_by_pillow():
  # simplejpeg refuses bytes between two segments; other programs read them.
  content = PHOTO[:2] + PHOTO[2:20] + b'\0\0\0' + PHOTO[20:]
  assert photographs.inspect(content) == Inspection(1, ())
  box = (3, 5, 43, 45)  # Pillow does not decode at a smaller scale.
  got, expected = (decode(c, 40, lambda w, h: box) for c in (content, PHOTO))
  np.testing.assert_array_equal(got, expected)


def test_inspect_decompression_bomb_raises(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with pytest.raises(BadImageError, match='exceeds limit'):
    photographs.inspect(PHOTO)
