"""Opens deployed networks with nothing but their files.

An artefact maps images without preprocessing, uint8 of shape (N, height, width,
3), to logits. A `.stablehlo` file needs jax and an `.onnx` file onnxruntime;
neither needs flax or the training code. A `.safetensors` file needs both.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import InvalidError, MissingError
from experiments.data.raw_images import RawImages

# Most images of a batch, and most pixels of its images.
BATCH, BATCH_PIXELS = 250, 2_500_000
_ONNX_LOGITS = 'tensor(float)'

Logits = Callable[[np.ndarray], np.ndarray]


class Artefact(NamedTuple):
  """A deployed network.

  Attributes:
    logits: `(images) -> logits`: uint8 of shape (N, height, width, 3), N at
      least 1, to float32 of shape (N, classes); NumPy arrays.
    shape: Height and width of the images.
    classes: Names of the classes, empty if they are unknown.
    resize: Short side in pixels that a photograph is scaled to before its
      centre is cropped to `shape`; None if images are scaled to `shape` as a
      whole, or if it is unknown.
  """

  logits: Logits
  shape: tuple[int, int]
  classes: tuple[str, ...]
  resize: int | None = None


def open_here(path: pathlib.Path) -> Artefact:
  """Opens an artefact in this process, which a crafted program can crash.

  `loading.load` opens files of any origin.

  Args:
    path: File that ends in one of `SUFFIXES`.

  Returns:
    The `Artefact`.

  Raises:
    MissingError: If a package that opens the file is missing.
    InvalidError: If the file is damaged, takes other images or returns
      something else than logits.
  """
  return _LOADERS[path.suffix](path)


def batch_size(shape: Sequence[int]) -> int:
  """Returns the number of images to compute at a time.

  Args:
    shape: Height and width of the images, and further axes.
  """
  return min(BATCH, max(1, BATCH_PIXELS // (shape[0] * shape[1])))


def run_in_batches(logits: Logits, images: RawImages) -> np.ndarray:
  """Returns the logits of test images, in batches of `batch_size`."""
  size = batch_size(images.inputs.shape)
  return np.concatenate([logits(batch) for batch in images.batches(size)])


def _load_stablehlo(path: pathlib.Path) -> Artefact:
  from experiments.deploy import program

  return program.load(path)


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
  shape = image_size(path, [(node.shape, node.type) for node in inputs])
  outputs = [(node.shape[1:], node.type) for node in session.get_outputs()]
  metadata = session.get_modelmeta().custom_metadata_map
  try:
    classes = tuple(map(str, json.loads(metadata.get('classes', '[]'))))
    resize = checked_resize(json.loads(metadata.get('resize', 'null')), shape)
    is_right = outputs == [([len(classes) or outputs[0][0][0]], _ONNX_LOGITS)]
  except (ValueError, RecursionError, TypeError, LookupError):
    is_right = False
  if not is_right:
    raise InvalidError(
      f'{path} returns {outputs}, not one logit per class. Use a file that'
      ' python -m experiments.deploy wrote.'
    )

  def logits(images: np.ndarray) -> np.ndarray:
    try:
      return np.asarray(session.run(None, {inputs[0].name: images})[0])
    except Exception as error:
      cause = str(error).partition('\n')[0]
      raise InvalidError(f'{path} does not run here: {cause}') from error

  return Artefact(logits, shape, classes, resize)


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
SUFFIXES = tuple(_LOADERS)


def image_size(
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


def checked_resize(resize: Any, shape: Sequence[int]) -> int | None:
  """Returns `Artefact.resize` of a file.

  Args:
    resize: Value in the file.
    shape: Height and width of the images.

  Raises:
    ValueError: If no photograph can be scaled and cropped with this value.
  """
  if resize is None:
    return None
  if not isinstance(resize, int) or not shape[0] == shape[1] <= resize:
    raise ValueError(f'resize={resize!r} does not fit images of {shape}')
  return resize
