"""Exports programs that run without this repository: StableHLO and ONNX."""

import contextlib
import importlib.util
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

import mq_jax
from experiments.common.errors import MissingError
from experiments.data.raw_examples import Inputs, Tokens
from experiments.deploy import inline, onnx_kernels, packed_network
from mq_jax import selection
from mq_jax.packing.packed_array import packed_leaves

PLATFORMS = ('cpu', 'cuda')
OPSET = 21
Logits = Callable[..., Any]


def stablehlo(logits: Logits, shape: tuple[int, ...]) -> bytes:
  """Exports a StableHLO program for CPU and CUDA, for any batch size.

  Args:
    logits: `(examples) -> logits`. Its constants become part of the program.
    shape: Height, width and channels of the uint8 images, or the number of
      uint8 tokens of an example.

  Returns:
    Bytes for `jax.export.deserialize`. Later versions of jax run the program
    for at least half a year.
  """
  (batch,) = export.symbolic_shape('batch')
  examples = _examples(batch, *shape)
  if len(shape) == 1:
    # Flax initializes the parameters of an NNX module in each call, and nothing
    # reads them.
    logits = _first(inline.inlined(logits, examples, for_xla=True))
  exported = export.export(jax.jit(logits), platforms=PLATFORMS)
  return bytes(exported(examples).serialize(vjp_order=0))


def _first(function: Callable[..., list[Any]]) -> Logits:
  return lambda *arguments: function(*arguments)[0]


def onnx(
  packed: mq_jax.PackedParams, inputs: Inputs | Tokens
) -> tuple[bytes, int]:
  """Exports an ONNX model, with jax2onnx.

  Args:
    packed: Parameters with the metadata of `packed_network.make_metadata`,
      which become part of the model. Kernels of linear layers become those of
      `onnx_kernels`; the model unpacks other packed weights.
    inputs: Form of the examples. The model stores the names of the classes and
      `resize`, or the length of the context, as JSON.

  Returns:
    A serialized ModelProto with the input `images` or `tokens`, and the output
    `logits`, where tokens can have any length; and the number of kernels by
    which onnxruntime multiplies directly (`onnx_kernels`).
  """
  is_text = isinstance(inputs, Tokens)
  batch, length = export.symbolic_shape('batch, length')
  model = onnx_model(
    packed_network.make_apply(packed),
    packed.params,
    'tokens' if is_text else 'images',
    _examples(batch, *((length,) if is_text else inputs.shape)),
  )
  # A runtime infers the shapes of intermediate results, which take a third of
  # the file.
  del model.graph.value_info[:]
  facts: dict[str, Any] = (
    {'context': inputs.shape[0]}
    if isinstance(inputs, Tokens)
    else {'classes': inputs.classes, 'resize': inputs.resize}
  )
  for key, fact in facts.items():
    if fact is not None:
      model.metadata_props.add(key=key, value=json.dumps(fact))
  content: bytes = model.SerializeToString()
  operations = [node.op_type for node in model.graph.node]
  return content, operations.count('DequantizeLinear')


def onnx_model(
  apply: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  name: str,
  examples: jax.ShapeDtypeStruct,
  leave: frozenset[str] = frozenset(),
  smallest: int | None = None,
) -> Any:
  """Returns the ModelProto of a network.

  Args:
    apply: `(params, examples) -> logits`, of unpacked parameters.
    params: Parameters with packed weights, which become part of the model.
    name: Name of the input.
    examples: Shape and type of the input.
    leave: Paths of kernels that the model unpacks.
    smallest: As in `onnx_kernels.kernels_of`.
  """
  import jax2onnx

  found = onnx_kernels.kernels_of(params, smallest)
  kernels = {
    path: layers for path, layers in sorted(found.items()) if path not in leave
  }
  # Each layer is an input of the model until its value replaces it.
  layers = {
    f'{path}/{number}': layer
    for path in kernels
    for number, layer in enumerate(kernels[path])
  }
  leaves = packed_leaves(params)
  given = {
    path: jax.ShapeDtypeStruct(leaves[path].shape, 'float32')
    for path in kernels
  }

  def logits(given: dict[str, jax.Array], examples: jax.Array) -> jax.Array:
    unpacked = mq_jax.unpack(params)
    return apply(selection.replace(unpacked, given), examples)

  if given or inline.needs_inlining(logits, given, examples):
    run = inline.inlined(logits, given, examples)
  else:

    def run(*examples: Any) -> list[Any]:
      return [logits({}, *examples)]

  def program(examples: jax.Array, *values: jax.Array) -> Any:
    rest = iter(values)
    stacks = [
      inline.Layers(itertools.islice(rest, len(kernels[path])))
      if len(spec.shape) > 2
      else next(rest)
      for path, spec in given.items()
    ]
    return run(*stacks, examples)[0]

  inputs = [
    examples,
    *(
      jax.ShapeDtypeStruct(layer.codes.shape, 'float32')
      for layer in layers.values()
    ),
  ]
  with _silent_shapes():
    model = jax2onnx.to_onnx(
      program,
      inputs,
      model_name='mq_jax',
      opset=OPSET,
      input_names=[name, *layers],
      output_names=['logits'],
    )
  onnx_kernels.use_products(model)
  unfit = onnx_kernels.insert(model, layers)
  if not unfit:
    return model
  paths = {layer.rpartition('/')[0] for layer in unfit}
  return onnx_model(apply, params, name, examples, leave | paths, smallest)


@contextlib.contextmanager
def _silent_shapes() -> Iterator[None]:
  """Hides warnings that a shape is not stored, which runtimes infer."""
  logger = logging.getLogger('onnx_ir.serde')

  def keep(record: logging.LogRecord) -> bool:
    return 'The value type for shape' not in record.getMessage()

  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)


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


def _examples(*shape: Any) -> jax.ShapeDtypeStruct:
  """Returns the shape and type of a batch of images or of tokens."""
  return jax.ShapeDtypeStruct(shape, jnp.uint8)
