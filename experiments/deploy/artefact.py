"""Opens deployed networks with nothing but their files.

An artefact maps images without preprocessing, uint8 of shape (N, height, width,
3), to logits. A `.stablehlo` file needs jax and an `.onnx` file onnxruntime;
neither needs flax or the training code. A `.safetensors` file needs both. This
command runs an artefact on images in a separate process:

  python -m experiments.deploy.artefact ARTEFACT IMAGES.npy LOGITS.npy
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

Logits = Callable[[np.ndarray], np.ndarray]


class Artefact(NamedTuple):
  """A deployed network.

  Attributes:
    logits: `(images) -> logits`: uint8 of shape (N, height, width, 3), N at
      least 1, to float32 of shape (N, classes); NumPy arrays.
    shape: Height and width of the images.
    classes: Names of the classes, from the file or from the card beside it;
      empty if neither has them, or if the card describes another file.
  """

  logits: Logits
  shape: tuple[int, int]
  classes: tuple[str, ...]


def load(path: str | pathlib.Path) -> Artefact:
  """Opens an artefact.

  Args:
    path: File that ends in .safetensors, .stablehlo or .onnx.

  Returns:
    The `Artefact`.

  Raises:
    MissingError: If the file or a package that opens it is missing.
    InvalidError: If the file is damaged, has another suffix, or takes other
      images.
  """
  path = pathlib.Path(path)
  if path.suffix not in _LOADERS:
    raise InvalidError(
      f'{path} must end in one of {", ".join(_LOADERS)} to be an artefact.'
    )
  if not path.is_file():
    raise MissingError(f'There is no file {path}.')
  return _LOADERS[path.suffix](path)


def run_in_batches(logits: Logits, images: np.ndarray) -> np.ndarray:
  """Returns the logits of many images, computed `BATCH` images at a time."""
  starts = range(0, len(images), BATCH)
  return np.concatenate([logits(images[i : i + BATCH]) for i in starts])


def _load_stablehlo(path: pathlib.Path) -> Artefact:
  try:
    # jax.export imports flatbuffers, which jax does not install.
    import flatbuffers  # noqa: F401
    import jax
    from jax import export
  except ImportError as error:
    raise MissingError(
      f'{path} needs jax and flatbuffers: pip install jax flatbuffers'
    ) from error
  try:
    exported = export.deserialize(bytearray(path.read_bytes()))
  except Exception as error:  # The errors of flatbuffers have no common base.
    raise InvalidError(
      f'{path} is damaged or is not a program of jax.export ({error}). Copy the'
      ' file again.'
    ) from error
  inputs = [(image.shape, str(image.dtype)) for image in exported.in_avals]
  shape = _image_size(path, inputs)
  program = jax.jit(exported.call)

  def logits(images: np.ndarray) -> np.ndarray:
    try:
      return np.asarray(program(images))
    except ValueError as error:  # The program is for another platform.
      raise InvalidError(f'{path} does not run here: {error}') from error

  return Artefact(logits, shape, _read_card_classes(path))


def _load_onnx(path: pathlib.Path) -> Artefact:
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
  except Exception as error:  # The errors of onnxruntime have no common base.
    raise InvalidError(
      f'{path} is damaged or is not an ONNX model ({error}). Copy the file'
      ' again.'
    ) from error
  inputs = session.get_inputs()
  shape = _image_size(path, [(node.shape, node.type) for node in inputs])
  metadata = session.get_modelmeta().custom_metadata_map
  return Artefact(
    lambda images: session.run(None, {inputs[0].name: images})[0],
    shape,
    tuple(json.loads(metadata.get('classes', '[]'))),
  )


def _load_safetensors(path: pathlib.Path) -> Artefact:
  try:
    from experiments.deploy import packed_network
  except ImportError as error:
    raise MissingError(
      f"{path} needs the training code's packages ({error.name} is missing):"
      " pip install -e '.[experiments]', or use the .stablehlo or .onnx file"
    ) from error
  return packed_network.load(path)


_LOADERS: dict[str, Callable[[pathlib.Path], Artefact]] = {
  '.safetensors': _load_safetensors,
  '.stablehlo': _load_stablehlo,
  '.onnx': _load_onnx,
}


def _image_size(
  path: pathlib.Path, inputs: Sequence[tuple[Sequence[Any], str]]
) -> tuple[int, int]:
  """Returns height and width of the images, from shape and type of inputs."""
  if len(inputs) == 1:
    shape, dtype = inputs[0]
    is_uint8 = dtype in ('uint8', 'tensor(uint8)')  # In jax and in ONNX.
    if is_uint8 and len(shape) == 4 and shape[3] == 3:
      return int(shape[1]), int(shape[2])
  raise InvalidError(
    f'{path} takes {inputs}, not uint8 images of shape (N, height, width, 3).'
    ' Use a file that python -m experiments.deploy wrote.'
  )


def _read_card_classes(path: pathlib.Path) -> tuple[str, ...]:
  """Returns the names in the card beside a file, if the card lists the file."""
  try:
    card = json.loads(path.with_name(CARD).read_text(encoding='utf-8'))
    hashes = {entry['file']: entry['sha256'] for entry in card['artefacts']}
    names = tuple(map(str, card['classes']))
  except (OSError, ValueError, LookupError, TypeError):
    return ()
  return names if hashes.get(path.name) == files.sha256(path) else ()


def main(arguments: list[str]) -> None:
  """Runs an artefact on a file of images."""
  path, images, logits = arguments
  np.save(logits, run_in_batches(load(path).logits, np.load(images)))


if __name__ == '__main__':
  main(sys.argv[1:])
