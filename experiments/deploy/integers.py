"""The integers and scales of packed kernels of linear layers."""

import jax.numpy as jnp
import numpy as np

import mq_jax
from mq_jax.packing import levels
from mq_jax.packing.packed_array import PackedArray
from mq_jax.quantizers import value_per_weight


def integers_of(leaf: PackedArray) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns the integers and scales of a packed kernel.

  Args:
    leaf: Packed weight of shape (inputs, outputs), or (layers, inputs,
      outputs).

  Returns:
    `(integers, scales)` of each layer: float32 of shape (inputs, outputs), and
    Ŵ is the rounded product up to the last bit. The list is empty if the levels
    are no multiples of a scale in float32 (`levels.scales_of`).
  """
  codes, tables = mq_jax.codes_and_levels(leaf)
  table = np.asarray(tables)
  alpha = levels.scales_of(table)
  if alpha is None or table.dtype != np.float32:
    return []
  multiples = np.rint(table / alpha[..., None])
  integers = np.asarray(mq_jax.dequantize(codes, jnp.asarray(multiples)))
  of_tables = alpha if alpha.ndim else alpha.reshape((1,) * len(leaf.shape))
  scales = np.asarray(value_per_weight(jnp.asarray(of_tables), leaf.shape))
  shape = (-1, *leaf.shape[-2:])
  return list(zip(integers.reshape(shape), scales.reshape(shape), strict=True))


def has_blocks(scales: np.ndarray, block: int) -> bool:
  """Returns True if each `block` inputs share their scales.

  Args:
    scales: Scales of shape (inputs, outputs).
    block: Number of inputs.
  """
  if len(scales) % block:
    return False
  blocks = scales.reshape(-1, block, scales.shape[-1])
  return bool(np.all(blocks == blocks[:, :1]))
