"""Kernels of few bits in ONNX models, by which onnxruntime multiplies directly.

The kernel of a linear layer becomes integers of 2, 4 or 8 bits, one scale per
block of inputs, and a `DequantizeLinear` before its `MatMul`. onnxruntime fuses
the two, and never computes the kernel in float32. Each integer is exact: ±1
becomes 1 and 3 around the zero 2, ternary weights 1, 2 and 3, and ±1/3, ±1 the
odd numbers around 8.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.deploy.integers import has_blocks, integers_of
from mq_jax.packing.packed_array import PackedArray, packed_leaves

# The version of the standard that has blocks of integers of so many bits.
OPSETS = {2: 25, 4: 21, 8: 21}
# The version of the file format that has the types of an operator set.
_IR_VERSIONS = {21: 10, 25: 13}
_PARTS = ('.codes', '.scale', '.zero')
# Numbers of inputs that can share a scale, the fastest first.
_BLOCKS = (128, 64, 32, 16)
# By smaller kernels, onnxruntime multiplies faster in float32
# (`benchmarks.few_bits --width 128`).
SMALLEST = 2**17
_PLAIN_GEMM = {'alpha': 1.0, 'transA': 0, 'transB': 0}
# One letter per axis of the inputs, of which the last is that of the kernel.
_PRODUCT = re.compile(r'(\w*)(\w),\2(\w)->\1\3')


class FewBits(NamedTuple):
  """The kernel of a layer: scale · (code − zero), with a scale per block.

  Attributes:
    codes: uint8 of shape (inputs, outputs).
    scale: float32 of shape (inputs / block, outputs).
    zero: Code of the value 0.
    bits: Bits per code: 2, 4 or 8.
    block: Number of inputs that share a scale.
  """

  codes: np.ndarray
  scale: np.ndarray
  zero: int
  bits: int
  block: int


def kernels_of(
  params: Any, smallest: int | None = None
) -> dict[str, list[FewBits]]:
  """Returns the kernels that `FewBits` can hold, by path.

  Args:
    params: Parameters with packed weights. A leaf called `kernel` is one of
      shape (inputs, outputs), or a stack of them.
    smallest: Least number of weights of a layer; None: `SMALLEST`.

  Returns:
    The layers of each kernel: one, or those of the stack. A smaller kernel is
    left out, and one that `few_bits` cannot convert.
  """
  found = {}
  least = SMALLEST if smallest is None else smallest
  for path, leaf in packed_leaves(params).items():
    is_large = math.prod(leaf.shape[-2:]) >= least
    if is_large and _is_linear(path, leaf):
      layers = few_bits(leaf)
      if layers:
        found[path] = layers
  return found


def _is_linear(path: str, leaf: PackedArray) -> bool:
  """Returns True for the kernel of a linear layer, or a stack of them."""
  return path.rpartition('/')[2] == 'kernel' and len(leaf.shape) in (2, 3)


def count_layers(params: Any) -> int:
  """Returns the number of layers with packed weights.

  Args:
    params: As in `kernels_of`. A stack has several layers.
  """
  return sum(
    leaf.shape[0] if _is_linear(path, leaf) and len(leaf.shape) == 3 else 1
    for path, leaf in packed_leaves(params).items()
  )


def few_bits(leaf: PackedArray) -> list[FewBits]:
  """Converts a packed kernel.

  Args:
    leaf: Packed weight of shape (inputs, outputs), or (layers, inputs,
      outputs).

  Returns:
    One item per layer. The list is empty if the levels are no multiples of a
    scale (`integers_of`), if 8 bits do not hold the multiples, or if no block
    of inputs shares its scales.
  """
  layers = []
  for integers, scales in integers_of(leaf):
    layer = _few_bits(integers, scales)
    if layer is None:
      return []
    layers.append(layer)
  return layers


def _few_bits(weights: np.ndarray, scales: np.ndarray) -> FewBits | None:
  """Converts integers and the scale of each, of shape (inputs, outputs)."""
  low, high = int(weights.min()), int(weights.max())
  for bits in OPSETS:
    zero = 2 ** (bits - 1)
    if -zero <= low and high < zero:
      break
  else:
    return None
  for block in _BLOCKS:
    if has_blocks(scales, block):
      codes = (weights + zero).astype(np.uint8)
      return FewBits(codes, scales[::block], zero, bits, block)
  return None


def insert(model: Any, kernels: Mapping[str, FewBits]) -> list[str]:
  """Replaces inputs of a model by kernels.

  Args:
    model: ModelProto, changed in place.
    kernels: Kernels by the names of inputs.

  Returns:
    The names of inputs that more than a `MatMul` reads. If there are any, the
    model is not changed.
  """
  if not kernels:
    return []
  graph = model.graph
  readers = [
    (node, name)
    for node in graph.node
    for name in kernels
    if name in node.input
  ]
  unfit = {name for node, name in readers if not _is_product(node, name)}
  if unfit:
    return sorted(unfit)
  for name, kernel in kernels.items():
    graph.initializer.extend(_initializers(name, kernel))
  nodes = _with_dequantized(graph.node, kernels)
  del graph.node[:]
  graph.node.extend(nodes)
  inputs = [node for node in graph.input if node.name not in kernels]
  del graph.input[:]
  graph.input.extend(inputs)
  # These versions add types; no operation changes its meaning.
  opset = max(OPSETS[kernel.bits] for kernel in kernels.values())
  for used in model.opset_import:
    if not used.domain:
      used.version = max(used.version, opset)
  model.ir_version = max(model.ir_version, _IR_VERSIONS[opset])
  return []


def _with_dequantized(
  nodes: Sequence[Any], kernels: Mapping[str, FewBits]
) -> list[Any]:
  """Returns the nodes with a `DequantizeLinear` before the use of a kernel."""
  from onnx import helper

  changed: list[Any] = []
  made: set[str] = set()
  for node in nodes:
    for name in kernels.keys() & set(node.input) - made:
      made.add(name)
      parts = [f'{name}{part}' for part in _PARTS]
      block = kernels[name].block
      changed.append(
        helper.make_node(
          'DequantizeLinear', parts, [name], axis=0, block_size=block
        )
      )
    changed.append(node)
  return changed


def _is_product(node: Any, name: str) -> bool:
  """Returns True if a node is a product of vectors by the kernel `name`."""
  return node.op_type == 'MatMul' and list(node.input).index(name) == 1


def use_products(model: Any) -> None:
  """Replaces other products of vectors by a kernel by `MatMul`.

  Args:
    model: ModelProto, changed in place.
  """
  for node in model.graph.node:
    if _is_other_product(node):
      node.op_type = 'MatMul'
      del node.attribute[:], node.input[2:]


def _is_other_product(node: Any) -> bool:
  from onnx import helper

  options = {
    attribute.name: helper.get_attribute_value(attribute)
    for attribute in node.attribute
  }
  if node.op_type == 'Einsum':
    return bool(_PRODUCT.fullmatch(options['equation'].decode()))
  # beta times a third input is added to the product.
  adds = options.pop('beta', 1.0) and len(node.input) > 2
  is_plain = not adds and options.items() <= _PLAIN_GEMM.items()
  return node.op_type == 'Gemm' and is_plain


def _initializers(name: str, kernel: FewBits) -> list[Any]:
  """Returns codes, scales and zeros as constants of a model."""
  from onnx import TensorProto, helper, numpy_helper

  kind = getattr(TensorProto, f'UINT{kernel.bits}')
  zeros = np.full(kernel.scale.shape, kernel.zero, np.uint8)
  codes, scale, zero = (f'{name}{part}' for part in _PARTS)
  return [
    helper.make_tensor(
      codes,
      kind,
      kernel.codes.shape,
      _bytes(kernel.codes, kernel.bits),
      raw=True,
    ),
    numpy_helper.from_array(kernel.scale, scale),
    helper.make_tensor(
      zero, kind, zeros.shape, _bytes(zeros, kernel.bits), raw=True
    ),
  ]


def _bytes(codes: np.ndarray, bits: int) -> bytes:
  """Returns codes in C order, the first in the lowest bits of its byte."""
  per_byte = 8 // bits
  padded = np.pad(codes.reshape(-1), (0, -codes.size % per_byte))
  shifts = np.arange(0, 8, bits, dtype=np.uint8)
  pieces = padded.reshape(-1, per_byte) << shifts[None]
  return np.bitwise_or.reduce(pieces, axis=1).tobytes()
