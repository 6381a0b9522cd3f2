"""Opens deployed networks with nothing but their files.

An artefact maps images without preprocessing, uint8 of shape (N, height, width,
3), or the bytes of a text, uint8 of shape (N, context), to logits. A
`.stablehlo` file needs jax and an `.onnx` file onnxruntime; neither needs flax
or the training code. `.safetensors` and `.gguf` files need both.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import InvalidError, MissingError
from experiments.data.raw_examples import RawExamples

# Most examples of a batch, most pixels of its images, and most of its tokens.
BATCH, BATCH_PIXELS, BATCH_TOKENS = 250, 2_500_000, 2**15
_ONNX_LOGITS = 'tensor(float)'
# How onnxruntime multiplies by kernels of few bits: with inputs in float32, or
# rounded to 8 bits, which is several times faster.
_ACCURACY_OPTION = 'session.qdq_matmulnbits_accuracy_level'
EXACT_LEVEL, FAST_LEVEL = '1', '4'

Logits = Callable[[np.ndarray], np.ndarray]


class Artefact(NamedTuple):
  """A deployed network.

  Attributes:
    logits: `(images) -> logits`: uint8 of shape (N, height, width, 3), N at
      least 1, to float32 of shape (N, classes); NumPy arrays. A language model
      maps tokens, uint8 of shape (N, context), to shape (N, context,
      vocabulary).
    shape: Height and width of the images, or `(context,)`, the number of tokens
      of an example.
    classes: Names of the classes, empty if they are unknown or tokens.
    resize: Short side in pixels that a photograph is scaled to before its
      centre is cropped to `shape`; None if images are scaled to `shape` as a
      whole, or if it is unknown.
  """

  logits: Logits
  shape: tuple[int, ...]
  classes: tuple[str, ...]
  resize: int | None = None

  @property
  def takes_text(self) -> bool:
    """Returns True for a language model."""
    return len(self.shape) == 1


def open_here(path: pathlib.Path, exact: bool = False) -> Artefact:
  """Opens an artefact in this process, which a crafted program can crash.

  `loading.load` opens files of any origin.

  Args:
    path: File that ends in one of `SUFFIXES`.
    exact: Compute in float32 where the file asks for faster products, which
      round their inputs (`onnx_kernels`).

  Returns:
    The `Artefact`.

  Raises:
    MissingError: If a package that opens the file is missing.
    InvalidError: If the file is damaged, takes other inputs or returns
      something else than logits.
  """
  return _LOADERS[path.suffix](path, exact)


def batch_size(shape: Sequence[int]) -> int:
  """Returns the number of examples to compute at a time.

  Args:
    shape: Height and width of the images, and further axes, or the number of
      tokens of an example.
  """
  if len(shape) == 1:
    return min(BATCH, max(1, BATCH_TOKENS // shape[0]))
  return min(BATCH, max(1, BATCH_PIXELS // (shape[0] * shape[1])))


def run_in_batches(logits: Logits, examples: RawExamples) -> np.ndarray:
  """Returns the logits of test examples, in batches of `batch_size`."""
  size = batch_size(examples.inputs.shape)
  return np.concatenate([logits(batch) for batch in examples.batches(size)])


def _load_stablehlo(path: pathlib.Path, exact: bool) -> Artefact:
  del exact  # All products are in the type of the network.
  from experiments.deploy import program

  return program.load(path)


def _load_onnx(path: pathlib.Path, exact: bool) -> Artefact:
  session = open_session(path, exact)
  inputs = session.get_inputs()
  outputs = [(node.shape[1:], node.type) for node in session.get_outputs()]
  metadata = session.get_modelmeta().custom_metadata_map
  try:
    context = json.loads(metadata.get('context', 'null'))
    shape = input_shape(
      path, [(node.shape, node.type) for node in inputs], context
    )
    classes = tuple(map(str, json.loads(metadata.get('classes', '[]'))))
    resize = checked_resize(json.loads(metadata.get('resize', 'null')), shape)
    count = len(classes) or outputs[0][0][-1]
    wanted = [inputs[0].shape[1], count] if context else [count]
    is_right = outputs == [(wanted, _ONNX_LOGITS)]
  except InvalidError:
    raise
  except (ValueError, RecursionError, TypeError, LookupError):
    is_right = False
  if not is_right:
    raise InvalidError(
      f'{path} returns {outputs}, not one logit per class or byte. Use a file'
      ' that python -m experiments.deploy wrote.'
    )

  def logits(examples: np.ndarray) -> np.ndarray:
    try:
      return np.asarray(session.run(None, {inputs[0].name: examples})[0])
    except Exception as error:
      cause = str(error).partition('\n')[0]
      raise InvalidError(f'{path} does not run here: {cause}') from error

  return Artefact(logits, shape, classes, resize)


def open_session(path: pathlib.Path, exact: bool, threads: int = 0) -> Any:
  """Opens an ONNX model with onnxruntime, on CPU.

  Args:
    path: File of the model.
    exact: As in `open_here`.
    threads: Number of threads of an operation; 0: one per core.

  Raises:
    MissingError: If onnxruntime is missing.
    InvalidError: If the file is damaged.
  """
  try:
    import onnxruntime
  except ImportError as error:
    raise MissingError(
      f'{path} needs onnxruntime: pip install onnxruntime'
    ) from error
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  # Models without products of few bits ignore the option.
  level = EXACT_LEVEL if exact else FAST_LEVEL
  options.add_session_config_entry(_ACCURACY_OPTION, level)
  try:
    return onnxruntime.InferenceSession(
      path.read_bytes(), options, providers=['CPUExecutionProvider']
    )
  except Exception as error:  # The errors of onnxruntime have no common base.
    raise InvalidError(
      f'{path} is damaged or is not an ONNX model ({error}). Copy the file'
      ' again.'
    ) from error


def _load_safetensors(path: pathlib.Path, exact: bool) -> Artefact:
  del exact  # All products are in the type of the network.
  try:
    from experiments.deploy import packed_network
  except ImportError as error:
    raise MissingError(_needs_training_code(path, error)) from error
  return packed_network.load(path)


def _load_gguf(path: pathlib.Path, exact: bool) -> Artefact:
  del exact  # All products are in the type of the network.
  try:
    from experiments.deploy import gguf_file
  except ImportError as error:
    raise MissingError(_needs_training_code(path, error)) from error
  return gguf_file.load(path)


def _needs_training_code(path: pathlib.Path, error: ImportError) -> str:
  return (
    f"{path} needs the training code's packages ({error.name} is missing):"
    " pip install -e '.[experiments]', or use the .stablehlo or .onnx file"
  )


_LOADERS: dict[str, Callable[[pathlib.Path, bool], Artefact]] = {
  '.safetensors': _load_safetensors,
  '.stablehlo': _load_stablehlo,
  '.onnx': _load_onnx,
  '.gguf': _load_gguf,
}
SUFFIXES = tuple(_LOADERS)


def input_shape(
  path: pathlib.Path,
  inputs: Sequence[tuple[Sequence[Any], str]],
  context: Any = None,
) -> tuple[int, ...]:
  """Returns `Artefact.shape` of a program.

  Args:
    path: File of the program, for the error.
    inputs: Shape and type of each input.
    context: Number of tokens of an example if the program takes any number.

  Raises:
    InvalidError: If the program takes neither images nor tokens.
  """
  if len(inputs) == 1:
    shape, dtype = inputs[0]
    is_uint8 = dtype in ('uint8', 'tensor(uint8)')  # In jax and in ONNX.
    if is_uint8 and len(shape) == 4 and shape[3] == 3:
      return int(shape[1]), int(shape[2])
    tokens = shape[1] if context is None and len(shape) == 2 else context
    if is_uint8 and len(shape) == 2 and type(tokens) is int and tokens > 0:
      return (tokens,)
  raise InvalidError(
    f'{path} takes {inputs}, not uint8 images of shape (N, height, width, 3) or'
    ' tokens of shape (N, context). Use a file that python -m'
    ' experiments.deploy wrote.'
  )


def checked_resize(resize: Any, shape: Sequence[int]) -> int | None:
  """Returns `Artefact.resize` of a file.

  Args:
    resize: Value in the file.
    shape: `Artefact.shape`.

  Raises:
    ValueError: If no photograph can be scaled and cropped with this value.
  """
  if resize is None:
    return None
  is_square = len(shape) == 2 and shape[0] == shape[1]
  if not isinstance(resize, int) or not is_square or shape[0] > resize:
    raise ValueError(f'resize={resize!r} does not fit images of {shape}')
  return resize
