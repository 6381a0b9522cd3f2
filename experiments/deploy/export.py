"""Exports programs that run without this repository: StableHLO and ONNX."""

import importlib.util
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from experiments.common.errors import MissingError
from experiments.data.raw_images import Inputs
from experiments.deploy.any_platform import with_default_forms

PLATFORMS = ('cpu', 'cuda')
OPSET = 21
Logits = Callable[[jax.Array], jax.Array]


def stablehlo(logits: Logits, image: tuple[int, ...]) -> bytes:
  """Exports a StableHLO program for CPU and CUDA, for any batch size.

  Args:
    logits: `(images) -> logits`. Its constants become part of the program.
    image: Height, width and channels of the uint8 images.

  Returns:
    Bytes for `jax.export.deserialize`. Later versions of jax run the program
    for at least half a year.
  """
  exported = export.export(jax.jit(logits), platforms=PLATFORMS)
  return bytes(exported(_image_batch(image)).serialize(vjp_order=0))


def onnx(logits: Logits, inputs: Inputs) -> bytes:
  """Exports the same program as an ONNX model, with jax2onnx.

  Args:
    logits: `(images) -> logits`. Its constants become part of the model.
    inputs: Images and classes. The model stores the names of the classes and
      `resize` as JSON.

  Returns:
    A serialized ModelProto with the input `images` and the output `logits`.
  """
  import jax2onnx

  model = jax2onnx.to_onnx(
    with_default_forms(logits),
    [_image_batch(inputs.shape)],
    model_name='mq_jax',
    opset=OPSET,
    input_names=['images'],
    output_names=['logits'],
  )
  # A runtime infers the shapes of intermediate results, which take a third of
  # the file.
  del model.graph.value_info[:]
  model.metadata_props.add(key='classes', value=json.dumps(inputs.classes))
  if inputs.resize is not None:
    model.metadata_props.add(key='resize', value=json.dumps(inputs.resize))
  content: bytes = model.SerializeToString()
  return content


def check_onnx() -> None:
  """Checks that ONNX models can be exported and run.

  Raises:
    MissingError: If a package is missing.
  """
  missing = [
    name
    for name in ('jax2onnx', 'onnxruntime')
    if importlib.util.find_spec(name) is None
  ]
  if missing:
    raise MissingError(
      f'ONNX needs {" and ".join(missing)}: pip install -e'
      " '.[experiments,onnx]' in a separate environment, because jax2onnx needs"
      ' an older orbax-checkpoint, or leave onnx out of --format.'
    )


def _image_batch(image: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  """Returns the shape and type of a batch of images, of any batch size."""
  (batch,) = export.symbolic_shape('batch')
  return jax.ShapeDtypeStruct((batch, *image), jnp.uint8)
