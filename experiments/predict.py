"""What a deployed network says of images.

  python -m experiments.predict ARTEFACT IMAGE… [--top=3]

An artefact is a file of `python -m experiments.deploy`. For .stablehlo only
jax, flatbuffers and Pillow are needed, for .onnx only onnxruntime and Pillow.
Images of another size are scaled to that of the network.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from experiments.common.errors import InvalidError, MissingError, UserError
from experiments.deploy import artefact


def predict(
  path: str | pathlib.Path, images: list[str], top: int = 1
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
  """Classifies image files.

  Args:
    path: Of the artefact.
    images: Paths; all are read before the first is classified.
    top: How many classes to tell of each.

  Yields:
    The image's path, and its most probable classes with their probabilities.

  Raises:
    MissingError: If a file or a package is missing.
    InvalidError: If a file is damaged or no image.
  """
  network = artefact.load(path)
  pixels = [_read(image, network.shape) for image in images]
  for image, one in zip(images, pixels, strict=True):
    logits = network.logits(one[None])[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    # A program may have lost its card.
    named = len(network.classes) == len(shares)
    names = network.classes if named else tuple(map(str, range(len(shares))))
    best = np.argsort(-shares, kind='stable')[:top]
    yield image, [(names[i], float(shares[i])) for i in best]


def _read(path: str, shape: tuple[int, int]) -> np.ndarray:
  try:
    from PIL import Image, ImageOps
  except ImportError as error:
    raise MissingError('images need Pillow: pip install pillow') from error
  try:
    with Image.open(path) as image:
      deep = image.mode == 'F' or image.mode.startswith('I')
      # As the camera was held.
      colours = ImageOps.exif_transpose(image).convert('RGB')
  except FileNotFoundError as error:
    raise MissingError(f'there is no image {path}') from error
  except (OSError, ValueError, Image.DecompressionBombError) as error:
    raise InvalidError(f'{path} is no image, or damaged: {error}') from error
  if deep:
    raise InvalidError(
      f'{path} has more than 8 bits a channel: save it with 8.'
    )
  height, width = shape
  if colours.size != (width, height):
    colours = colours.resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(colours, np.uint8)


def main() -> None:
  """Prints a line for each class of each image."""
  options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  options.add_argument('artefact')
  options.add_argument('images', nargs='+', metavar='image')
  options.add_argument('--top', type=int, default=1, help='classes an image')
  args = options.parse_args()
  if args.top < 1:
    options.error(f'--top={args.top} must be at least 1')
  try:
    for image, classes in predict(args.artefact, args.images, args.top):
      for name, share in classes:
        print(f'{image}\t{name}\t{100 * share:.1f}%')
  except UserError as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main()
