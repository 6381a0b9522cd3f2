"""Programs that run without us: StableHLO and ONNX."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from experiments.common.errors import MissingError

PLATFORMS = ('cpu', 'cuda')
OPSET = 21
Logits = Callable[[jax.Array], jax.Array]


def stablehlo(logits: Logits, image: tuple[int, ...]) -> bytes:
  """A program for CPU and CUDA, of any batch size.

  Args:
    logits: `(images) -> logits`; its constants go into the program.
    image: Height, width and channels of the images, which are uint8.

  Returns:
    What `jax.export.deserialize` reads. It is StableHLO with guarantees: a
    later jax runs it for at least half a year.
  """
  exported = export.export(jax.jit(logits), platforms=PLATFORMS)
  return bytes(exported(_images(image)).serialize(vjp_order=0))


def onnx(
  logits: Logits, image: tuple[int, ...], metadata: Mapping[str, Any]
) -> bytes:
  """The same as an ONNX model, by jax2onnx.

  Args:
    logits: As in `stablehlo`.
    image: As in `stablehlo`.
    metadata: Kept in the model, as JSON by name.

  Returns:
    A ModelProto; its input is `images`, its output `logits`.
  """
  import jax2onnx

  model = jax2onnx.to_onnx(
    logits,
    [_images(image)],
    model_name='mq_jax',
    opset=OPSET,
    input_names=['images'],
    output_names=['logits'],
  )
  # Shapes of intermediate results, which a runtime finds for itself: a third of
  # the file.
  del model.graph.value_info[:]
  for key, value in metadata.items():
    model.metadata_props.add(key=key, value=json.dumps(value))
  content: bytes = model.SerializeToString()
  return content


def check_onnx() -> None:
  """Raises `MissingError` unless ONNX models can be made and run."""
  missing = [
    name
    for name in ('jax2onnx', 'onnxruntime')
    if importlib.util.find_spec(name) is None
  ]
  if missing:
    raise MissingError(
      f'ONNX needs {" and ".join(missing)}: pip install'
      " 'mq_jax[experiments,onnx]', in an environment of its own, because"
      ' jax2onnx wants an older orbax-checkpoint; or leave onnx out of --format'
    )


def _images(image: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  (batch,) = export.symbolic_shape('batch')
  return jax.ShapeDtypeStruct((batch, *image), jnp.uint8)
