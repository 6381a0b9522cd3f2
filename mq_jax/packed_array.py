"""One quantized weight as bits and a table of levels, and back."""

import dataclasses
import math
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mq_jax import levels
from mq_jax.materialize import materialize
from mq_jax.quantizers import dequantize
from mq_jax.selection import named_leaves

Array = jax.Array
MOST_BITS = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PackedArray:
  """One quantized weight, a pytree node.

  Attributes:
    data: uint8 of shape `(ceil(size · bits / 8),)`: the codes in C order, each
      with its lowest bit first, from the lowest bit of the first byte on. At 1
      bit that is `numpy.packbits(codes, bitorder='little')`.
    levels: Ŵ is `levels[code]`: shape `(n,)`, or one table per channel as in
      `Quantizer.codes`. With a `grid` it is the scale instead, n = 1.
    shape: Of Ŵ.
    bits: Of a code, 1 to 8: as many as the values in use need, or with a `grid`
      the places on it, from its first to the last in use.
    grid: `(first, step)`, integers, where Ŵ is levels · (first + step · code);
      else None.
    quantizer: Name of the method; it changes nothing.
  """

  data: Array | np.ndarray
  levels: Array | np.ndarray
  shape: tuple[int, ...] = dataclasses.field(metadata={'static': True})
  bits: int = dataclasses.field(metadata={'static': True})
  grid: tuple[int, int] | None = dataclasses.field(metadata={'static': True})
  quantizer: str = dataclasses.field(metadata={'static': True})


def packed_array(
  w_hat: np.ndarray, tables: tuple[int, ...], path: str, quantizer: str
) -> PackedArray:
  """Packs one quantized weight.

  Args:
    w_hat: Ŵ, finite and not empty.
    tables: As in `levels.by_value`.
    path: Of the weight, for the message of an error.
    quantizer: As in `PackedArray`.

  Raises:
    ValueError: If it has more than 256 values.
  """
  codes, table = levels.by_value(w_hat, tables)
  number = table.shape[-1]
  if number > 2**MOST_BITS:
    raise ValueError(
      f'{path} has {number} different values, and {MOST_BITS} bits tell'
      f' {2**MOST_BITS} apart: hand over the quantizer that it was trained'
      ' with.'
    )
  bits = max(1, (number - 1).bit_length())
  with_table = packed_bytes(w_hat.size, bits) + table.nbytes
  grid, on_grid = None, _on_grid(codes, table)
  if on_grid is not None:
    scale, positions, first_and_step = on_grid
    wide = max(1, int(positions.max()).bit_length())
    on_it = packed_bytes(w_hat.size, wide) + scale.nbytes
    if wide <= MOST_BITS and on_it < with_table:
      codes, table, grid, bits = positions, scale, first_and_step, wide
  data = _bytes(codes, bits)
  return PackedArray(data, table, w_hat.shape, bits, grid, quantizer)


def codes_and_levels(array: PackedArray) -> tuple[Array, Array]:
  """Codes and levels, as `Quantizer.codes` gives them. Under jit too.

  Returns:
    `(codes, levels)`: uint8 of the shape of Ŵ, and the table of values.
  """
  return codes_of(array).astype(jnp.uint8), _table(array)


def values(array: PackedArray) -> Array:
  """Ŵ of one packed weight. Under jit too."""
  codes, table = codes_of(array), _table(array)
  if table.shape[-1] == 2:
    # As a choice, which exported programs say in one operation.
    wide = table.ndim == codes.ndim + 1
    low, high = (table[..., i] if wide else table[i] for i in (0, 1))
    return jnp.where(codes > 0, high, low)
  return dequantize(codes, table)


def is_packed(leaf: Any) -> TypeGuard[PackedArray]:
  """Whether a node of a pytree is a `PackedArray`: for `is_leaf`."""
  return isinstance(leaf, PackedArray)


def packed_leaves(params: Any) -> dict[str, PackedArray]:
  """The packed leaves of a pytree by path."""
  leaves = named_leaves(params, is_leaf=is_packed)
  return {path: leaf for path, leaf in leaves.items() if is_packed(leaf)}


def _table(array: PackedArray) -> Any:
  dtype = array.levels.dtype
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise ValueError(
      f'the levels are {dtype}, and jax computes in float32 until'
      " jax.config.update('jax_enable_x64', True)"
    )
  if array.grid is None:
    return jnp.asarray(array.levels)
  first, step = array.grid
  whole = (first + step * np.arange(2**array.bits)).astype(dtype)
  whole = whole.reshape((1,) * (array.levels.ndim - 1) + (-1,))
  if isinstance(array.levels, jax.core.Tracer):
    # Else XLA could join the product to what follows, and round only once.
    return materialize(
      lambda scale: lax.optimization_barrier(scale * whole),
      array.levels,
      never=jnp.min(array.levels) < 0,
    )
  return jnp.asarray(np.asarray(array.levels) * whole)


def packed_bytes(size: int, bits: int) -> int:
  """Bytes that `size` codes of `bits` each take."""
  return -(-size * bits // 8)


def codes_of(array: PackedArray) -> Array:
  """The codes alone, of the shape of Ŵ, integers."""
  # Constants are NumPy's, so that no program has to compute them.
  data, bits = jnp.asarray(array.data), array.bits
  size = math.prod(array.shape)
  if bits == MOST_BITS:
    return data.reshape(array.shape)
  each = bits if MOST_BITS % bits == 0 else 1
  shifts = np.arange(0, 8, each, dtype=np.uint8)
  pieces = (data[:, None] >> shifts[None]) & np.uint8(2**each - 1)
  pieces = pieces.reshape(-1)[: size * bits // each]
  if each == bits:
    return pieces.reshape(array.shape)
  # Codes of 3, 5, 6 or 7 bits lie across the borders of bytes.
  weights = 2 ** np.arange(bits, dtype=np.int32)
  bitwise = pieces.reshape(size, bits).astype(jnp.int32)
  return jnp.sum(bitwise * weights[None], axis=1).reshape(array.shape)


def _on_grid(
  codes: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | None:
  """Scales, places on a grid in place of the codes, and the grid."""
  multiples = levels.exact_multiples(table)
  if multiples is None:
    return None
  scale, whole = multiples
  first = int(whole.min())
  step = int(np.gcd.reduce(whole - first, axis=None)) or 1
  places = jnp.asarray((whole - first) // step)
  picked = np.asarray(dequantize(jnp.asarray(codes), places))
  return scale, picked, (first, step)


def _bytes(codes: np.ndarray, bits: int) -> np.ndarray:
  shifts = np.arange(bits)
  bitwise = (codes.reshape(-1, 1) >> shifts) & 1
  return np.packbits(bitwise.astype(np.uint8), bitorder='little')
