"""Deployed networks, opened by what is in their files alone.

An artefact takes images as they are, uint8 of shape (N, height, width, 3), and
gives logits. `.stablehlo` needs jax, `.onnx` needs onnxruntime, and neither
needs flax or the training code; `.safetensors` needs both.

  python -m experiments.deploy.artefact ARTEFACT IMAGES.npy LOGITS.npy

runs images through one, in a process of its own.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError, MissingError

CARD = 'card.json'
BATCH = 250


class Artefact(NamedTuple):
  """A deployed network.

  Attributes:
    logits: `(images) -> logits`: uint8 of shape (N, height, width, 3), N at
      least 1, to float32 of shape (N, classes); NumPy arrays.
    shape: Height and width of the images.
    classes: Names: the file's own, or of the card beside it where that is of
      this file; else empty.
  """

  logits: Callable[[np.ndarray], np.ndarray]
  shape: tuple[int, int]
  classes: tuple[str, ...]


def load(path: str | pathlib.Path) -> Artefact:
  """Opens an artefact.

  Args:
    path: Ends in .safetensors, .stablehlo or .onnx.

  Returns:
    The `Artefact`.

  Raises:
    MissingError: If there is none, or what opens it is not installed.
    InvalidError: If it is damaged, of another kind, or takes other images.
  """
  path = pathlib.Path(path)
  if path.suffix not in _LOADERS:
    raise InvalidError(f'{path}: an artefact ends in one of {[*_LOADERS]}.')
  if not path.is_file():
    raise MissingError(f'there is no file {path}')
  return _LOADERS[path.suffix](path)


def in_batches(
  logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> np.ndarray:
  """Logits of many images, `BATCH` at a time."""
  starts = range(0, len(images), BATCH)
  return np.concatenate([logits(images[i : i + BATCH]) for i in starts])


def _from_card(path: pathlib.Path) -> tuple[str, ...]:
  try:
    card = json.loads(path.with_name(CARD).read_text(encoding='utf-8'))
    hashes = {one['file']: one['sha256'] for one in card['artefacts']}
    names = tuple(map(str, card['classes']))
  except (OSError, ValueError, LookupError, TypeError):
    return ()
  return names if hashes.get(path.name) == files.sha256(path) else ()


def _stablehlo(path: pathlib.Path) -> Artefact:
  try:
    import flatbuffers  # noqa: F401  jax.export's own need, not in jax's list
    import jax
    from jax import export
  except ImportError as error:
    raise MissingError(
      f'{path} needs jax and flatbuffers: pip install jax flatbuffers'
    ) from error
  try:
    exported = export.deserialize(bytearray(path.read_bytes()))
  except Exception as error:  # flatbuffers raises of all kinds
    raise InvalidError(
      f'{path} is damaged, or no program of jax.export ({error}): copy it'
      ' again.'
    ) from error
  kinds = [(image.shape, str(image.dtype)) for image in exported.in_avals]
  shape = _checked_shape(path, kinds)
  program = jax.jit(exported.call)

  def logits(images: np.ndarray) -> np.ndarray:
    try:
      return np.asarray(program(images))
    except ValueError as error:  # of another platform
      raise InvalidError(f'{path} does not run here: {error}') from error

  return Artefact(logits, shape, _from_card(path))


def _onnx(path: pathlib.Path) -> Artefact:
  try:
    import onnxruntime
  except ImportError as error:
    raise MissingError(
      f'{path} needs onnxruntime: pip install onnxruntime'
    ) from error
  try:
    session = onnxruntime.InferenceSession(
      path.read_bytes(), providers=['CPUExecutionProvider']
    )
  except Exception as error:  # its errors have no common base
    raise InvalidError(
      f'{path} is damaged, or no ONNX model ({error}): copy it again.'
    ) from error
  inputs = session.get_inputs()
  kinds = [
    (one.shape, one.type.removeprefix('tensor(').removesuffix(')'))
    for one in inputs
  ]
  shape = _checked_shape(path, kinds)
  own = session.get_modelmeta().custom_metadata_map.get('classes', '[]')
  return Artefact(
    lambda images: session.run(None, {inputs[0].name: images})[0],
    shape,
    tuple(json.loads(own)),
  )


def _checked_shape(
  path: pathlib.Path, inputs: Sequence[tuple[Sequence[Any], str]]
) -> tuple[int, int]:
  """Height and width of the images that a program takes."""
  if len(inputs) == 1:
    (shape, dtype) = inputs[0]
    if dtype == 'uint8' and len(shape) == 4 and shape[3] == 3:
      return int(shape[1]), int(shape[2])
  raise InvalidError(
    f'{path} takes {inputs}, not uint8 images of shape (N, height, width, 3):'
    ' take a file of python -m experiments.deploy'
  )


def _safetensors(path: pathlib.Path) -> Artefact:
  try:
    from experiments.deploy import packed_network
  except ImportError as error:
    raise MissingError(
      f"{path} needs the training code's packages ({error.name} is missing):"
      " pip install -e '.[experiments]', or take the .stablehlo or .onnx file"
    ) from error
  return Artefact(*packed_network.load(path))


_LOADERS: dict[str, Callable[[pathlib.Path], Artefact]] = {
  '.safetensors': _safetensors,
  '.stablehlo': _stablehlo,
  '.onnx': _onnx,
}


def main(arguments: list[str]) -> None:
  """Runs images through an artefact."""
  path, images, logits = arguments
  np.save(logits, in_batches(load(path).logits, np.load(images)))


if __name__ == '__main__':
  main(sys.argv[1:])
