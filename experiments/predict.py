"""Classifies images with a deployed network.

  python -m experiments.predict ARTEFACT IMAGE… [--top=3]

An artefact is a file that `python -m experiments.deploy` wrote. A .stablehlo
file needs only jax, flatbuffers and Pillow, an .onnx file only onnxruntime and
Pillow; networks for photographs also need simplejpeg. Photographs are turned,
scaled and cropped as in the test of the network. For other networks, images are
scaled to the size that the network takes.
"""

import argparse
import pathlib
from collections.abc import Iterator

import numpy as np

from experiments.common.errors import (
  InvalidError,
  MissingError,
  UserError,
  exit_on_user_error,
)
from experiments.deploy import loading
from experiments.deploy.artefact import Artefact


def predict(
  path: str | pathlib.Path, images: list[str], top: int = 1
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
  """Classifies image files.

  Args:
    path: Path of the artefact.
    images: Paths of the images; all are read before the first is classified.
    top: Number of classes per image.

  Yields:
    The path of an image, and its most probable classes with probabilities.

  Raises:
    MissingError: If a file or a package is missing.
    InvalidError: If a file is damaged or is not an image, or if the network
      is a language model.
  """
  network = loading.load(path)
  if network.takes_text:
    raise InvalidError(
      f'{path} is a language model: write text with it, python -m'
      f' experiments.sample {path}'
    )
  pixels = [_read(image, network) for image in images]
  for image, rgb in zip(images, pixels, strict=True):
    logits = network.logits(rgb[None])[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    # A program without its card does not know the names of classes.
    classes = range(len(probabilities))
    is_named = len(network.classes) == len(probabilities)
    names = network.classes if is_named else tuple(map(str, classes))
    best = np.argsort(-probabilities, kind='stable')[:top]
    yield image, [(names[i], float(probabilities[i])) for i in best]


def _read(path: str, network: Artefact) -> np.ndarray:
  """Returns the pixels of an image file as the network takes them."""
  try:
    if network.resize is None:
      return _scaled(path, network.shape)
    return _cropped(path, network.resize, network.shape[0])
  except UserError:
    raise
  except FileNotFoundError as error:
    raise MissingError(f'There is no image {path}.') from error
  except (OSError, ValueError) as error:
    raise InvalidError(
      f'{path} is not an image or is damaged: {error}'
    ) from error


def _cropped(path: str, resize: int, size: int) -> np.ndarray:
  """Decodes, turns, scales and crops a photograph as the test does."""
  try:
    from experiments.data import photographs
  except ImportError as error:
    raise MissingError(
      'Reading photographs needs Pillow and simplejpeg: pip install pillow'
      ' simplejpeg'
    ) from error
  content = pathlib.Path(path).read_bytes()
  orientation = photographs.inspect(content).orientation
  return photographs.central_crop(content, orientation, resize, size)


def _scaled(path: str, shape: tuple[int, ...]) -> np.ndarray:
  """Decodes an image, and scales it to height and width."""
  try:
    from PIL import Image, ImageOps

    from experiments.data.transparency import check_transparency, on_white
  except ImportError as error:
    raise MissingError(
      'Reading images needs Pillow: pip install pillow'
    ) from error
  try:
    with Image.open(path) as image:
      is_deep = image.mode == 'F' or image.mode.startswith('I')
      if not is_deep:
        check_transparency(image)
      # The EXIF data say how the camera was held.
      colours = on_white(ImageOps.exif_transpose(image))
  except Image.DecompressionBombError as error:
    raise ValueError(str(error)) from error
  if is_deep:
    raise InvalidError(
      f'{path} has more than 8 bits per channel. Save it with 8.'
    )
  height, width = shape
  if colours.size != (width, height):
    colours = colours.resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(colours, np.uint8)


@exit_on_user_error()
def main() -> None:
  """Prints one line per image and class."""
  options = argparse.ArgumentParser(
    prog='python -m experiments.predict',
    description=__doc__.splitlines()[0],
  )
  options.add_argument('artefact', help='File of a deployed network.')
  options.add_argument(
    'images', nargs='+', metavar='image', help='Image file to classify.'
  )
  options.add_argument(
    '--top', type=int, default=1, help='Number of classes printed per image.'
  )
  args = options.parse_args()
  if args.top < 1:
    options.error(f'--top={args.top} must be at least 1.')
  for image, classes in predict(args.artefact, args.images, args.top):
    for name, probability in classes:
      print(f'{image}\t{name}\t{100 * probability:.1f}%')


if __name__ == '__main__':
  main()
