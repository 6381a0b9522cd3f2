"""Deployed networks, opened by what is in their files alone.

An artefact takes images as they are, uint8 of shape (N, height, width, 3), and
gives logits. `.stablehlo` needs jax, `.onnx` needs onnxruntime, and neither
needs flax or the training code; `.safetensors` needs both.

  python -m experiments.artefact ARTEFACT IMAGES.npy LOGITS.npy

runs images through one, in a process of its own.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import InvalidError, MissingError

CARD = 'card.json'
BATCH = 250


class Artefact(NamedTuple):
  """A deployed network.

  Attributes:
    logits: `(images) -> logits`: uint8 of shape (N, height, width, 3), N at
      least 1, to float32 of shape (N, classes); NumPy arrays.
    shape: Height and width of the images.
    classes: Names, from the card beside the artefact; empty where it is gone.
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
    InvalidError: If it is damaged or of another kind.
  """
  path = pathlib.Path(path)
  if path.suffix not in _LOADERS:
    raise InvalidError(f'{path}: an artefact ends in one of {[*_LOADERS]}.')
  if not path.is_file():
    raise MissingError(f'there is no file {path}')
  logits, shape = _LOADERS[path.suffix](path)
  return Artefact(logits, shape, _classes(path.with_name(CARD)))


def in_batches(artefact: Artefact, images: np.ndarray) -> np.ndarray:
  """Logits of many images, `BATCH` at a time."""
  starts = range(0, len(images), BATCH)
  return np.concatenate(
    [artefact.logits(images[i : i + BATCH]) for i in starts]
  )


def _classes(card: pathlib.Path) -> tuple[str, ...]:
  if not card.is_file():
    return ()
  return tuple(json.loads(card.read_text(encoding='utf-8'))['classes'])


def _stablehlo(path: pathlib.Path) -> tuple[Any, tuple[int, int]]:
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
    shape = exported.in_avals[0].shape
  except Exception as error:  # flatbuffers raises of all kinds
    raise InvalidError(
      f'{path} is damaged, or no program of jax.export ({error}): copy it'
      ' again.'
    ) from error
  program = jax.jit(exported.call)
  return lambda images: np.asarray(program(images)), shape[1:3]


def _onnx(path: pathlib.Path) -> tuple[Any, tuple[int, int]]:
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
  images = session.get_inputs()[0]
  return (
    lambda batch: session.run(None, {images.name: batch})[0],
    tuple(images.shape[1:3]),
  )


def _safetensors(path: pathlib.Path) -> tuple[Any, tuple[int, int]]:
  try:
    from experiments import packed_network
  except ImportError as error:
    raise MissingError(
      f"{path} needs the training code's packages ({error.name} is missing):"
      " pip install -e '.[experiments]', or take the .stablehlo or .onnx file"
    ) from error
  return packed_network.load(path)


_LOADERS: dict[str, Callable[[pathlib.Path], tuple[Any, tuple[int, int]]]] = {
  '.safetensors': _safetensors,
  '.stablehlo': _stablehlo,
  '.onnx': _onnx,
}


def main(arguments: list[str]) -> None:
  """Runs images through an artefact."""
  path, images, logits = arguments
  np.save(logits, in_batches(load(path), np.load(images)))


if __name__ == '__main__':
  main(sys.argv[1:])
