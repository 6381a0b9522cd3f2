"""Packs and unpacks one quantized weight: bits and a table of levels."""

import dataclasses
import math
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mq_jax.materialize import materialize
from mq_jax.packing import levels
from mq_jax.quantizers import dequantize, value_per_weight
from mq_jax.selection import named_leaves

Array = jax.Array
MAX_BITS = 8
_BLOCK = 2**14  # Bytes per bit of the codes that are checked at a time.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PackedArray:
  """One quantized weight, a pytree node.

  Attributes:
    data: The codes in C order, uint8 of shape `(ceil(size · bits / 8),)`. Each
      code starts with its lowest bit, and the first code starts at the lowest
      bit of the first byte. At 1 bit, `data` is
      `numpy.packbits(codes, bitorder='little')`.
    levels: Table of values, Ŵ = `levels[code]`: shape `(n,)`, or several
      tables as in `Quantizer.codes`. With a `grid`, `levels` is the scale and
      n = 1.
    shape: Shape of Ŵ.
    bits: Bits per code, 1 to 8: the minimum that distinguishes all values in
      use or, with a `grid`, all positions from the first to the last in use.
    grid: None, or integers `(first, step)`: Ŵ = levels · (first + step · code).
    quantizer: Name of the method, for information only.
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
    tables: The argument of `levels.by_value`.
    path: Path of the weight, for error messages.
    quantizer: Name of the method, `PackedArray.quantizer`.

  Raises:
    ValueError: If Ŵ has more than 256 values.
  """
  codes, table = levels.by_value(w_hat, tables)
  if tables:
    # The slices of a quantizer with constant levels share one table.
    _, shared = levels.by_value(table, ())
    if shared.size <= table.shape[-1]:
      codes, table = levels.by_value(w_hat, ())
  count = table.shape[-1]
  if count > 2**MAX_BITS:
    raise ValueError(
      f'{path} has {count} different values, but {MAX_BITS} bits distinguish'
      f' only {2**MAX_BITS}: pass the quantizer that trained the weight.'
    )
  bits = max(1, (count - 1).bit_length())
  table_bytes = packed_bytes(w_hat.size, bits) + table.nbytes
  grid, on_grid = None, _on_grid(codes, table)
  if on_grid is not None:
    scale, positions, first_and_step = on_grid
    grid_bits = max(1, int(positions.max()).bit_length())
    grid_bytes = packed_bytes(w_hat.size, grid_bits) + scale.nbytes
    if grid_bits <= MAX_BITS and grid_bytes < table_bytes:
      codes, table, grid, bits = positions, scale, first_and_step, grid_bits
  data = _bytes(codes, bits)
  return PackedArray(data, table, w_hat.shape, bits, grid, quantizer)


def codes_and_levels(array: PackedArray) -> tuple[Array, Array]:
  """Returns codes and levels as `Quantizer.codes` does. Works under jit.

  Returns:
    `(codes, levels)`: uint8 of the shape of Ŵ, and the table of values.

  Raises:
    ValueError: If the levels are float64 and jax has float64 disabled.
  """
  return codes_of(array).astype(jnp.uint8), _table(array)


def values(array: PackedArray) -> Array:
  """Returns Ŵ of one packed weight. Works under jit."""
  codes, table = codes_of(array), _table(array)
  if table.shape[-1] == 2:
    # Exported programs express this choice in a single operation.
    low, high = table[..., 0], table[..., 1]
    if table.ndim > 1:
      low, high = (value_per_weight(x, array.shape) for x in (low, high))
    return jnp.where(codes > 0, high, low)
  return dequantize(codes, table)


def is_packed(leaf: Any) -> TypeGuard[PackedArray]:
  """Returns whether a pytree node is a `PackedArray`; used as `is_leaf`."""
  return isinstance(leaf, PackedArray)


def packed_leaves(params: Any) -> dict[str, PackedArray]:
  """Returns the packed leaves of a pytree by path."""
  leaves = named_leaves(params, is_leaf=is_packed)
  return {path: leaf for path, leaf in leaves.items() if is_packed(leaf)}


def _table(array: PackedArray) -> Any:
  dtype = array.levels.dtype
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise ValueError(
      f'The levels are {dtype}, but jax computes in float32: call'
      " jax.config.update('jax_enable_x64', True) first."
    )
  if array.grid is None:
    return jnp.asarray(array.levels)
  first, step = array.grid
  multiples = (first + step * np.arange(2**array.bits)).astype(dtype)
  multiples = multiples.reshape((1,) * (array.levels.ndim - 1) + (-1,))
  if isinstance(array.levels, jax.core.Tracer):
    # Otherwise XLA could fuse the product with its reader and round only once.
    return materialize(
      lambda scale: lax.optimization_barrier(scale * multiples),
      array.levels,
      never=jnp.min(array.levels) < 0,
    )
  return jnp.asarray(np.asarray(array.levels) * multiples)


def packed_bytes(size: int, bits: int) -> int:
  """Returns the number of bytes of `size` codes of `bits` bits each."""
  return -(-size * bits // 8)


def codes_of(array: PackedArray) -> Array:
  """Returns the codes without levels, integers of the shape of Ŵ."""
  # NumPy computes the constants, so no program computes them.
  data, bits = jnp.asarray(array.data), array.bits
  size = math.prod(array.shape)
  if bits == MAX_BITS:
    return data.reshape(array.shape)
  piece_bits = bits if MAX_BITS % bits == 0 else 1
  shifts = np.arange(0, 8, piece_bits, dtype=np.uint8)
  pieces = (data[:, None] >> shifts[None]) & np.uint8(2**piece_bits - 1)
  pieces = pieces.reshape(-1)[: size * bits // piece_bits]
  if piece_bits == bits:
    return pieces.reshape(array.shape)
  # Codes of 3, 5, 6 or 7 bits cross the boundaries of bytes.
  weights = 2 ** np.arange(bits, dtype=np.int32)
  bitwise = pieces.reshape(size, bits).astype(jnp.int32)
  return jnp.sum(bitwise * weights[None], axis=1).reshape(array.shape)


def _on_grid(
  codes: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | None:
  """Returns the scales, the grid position of each weight, and the grid."""
  found = levels.exact_multiples(table)
  if found is None:
    return None
  scale, multiples = found
  first = int(multiples.min())
  step = int(np.gcd.reduce(multiples - first, axis=None)) or 1
  level_positions = jnp.asarray((multiples - first) // step)
  positions = np.asarray(dequantize(jnp.asarray(codes), level_positions))
  return scale, positions, (first, step)


def _bytes(codes: np.ndarray, bits: int) -> np.ndarray:
  shifts = np.arange(bits)
  bitwise = (codes.reshape(-1, 1) >> shifts) & 1
  return np.packbits(bitwise.astype(np.uint8), bitorder='little')


def checked_array(
  path: str,
  data: np.ndarray,
  table: np.ndarray,
  bits: int,
  shape: list[int],
  grid: list[int] | None,
  quantizer: str,
) -> PackedArray:
  """Returns a `PackedArray` of parts that may be damaged or forged.

  Args:
    path: Path of the leaf, for error messages.
    data: The codes, `PackedArray.data`.
    table: The levels, `PackedArray.levels`.
    bits: Bits per code.
    shape: Shape of Ŵ.
    grid: None, or `[first, step]`.
    quantizer: Name of the method.

  Raises:
    ValueError: If the parts do not fit together.
  """
  if not (
    _integers([bits], 1, MAX_BITS)
    and _integers(shape, 1, math.inf)
    and (grid is None or _is_grid(grid))
    and isinstance(quantizer, str)
  ):
    raise ValueError(
      f'{path} has bits {bits!r}, shape {shape!r}, grid {grid!r}, quantizer'
      f' {quantizer!r}'
    )
  size, tables = math.prod(shape), table.shape[:-1]
  fits = (
    data.dtype == np.uint8
    and data.shape == (packed_bytes(size, bits),)
    and (table.dtype.kind == 'f' or table.dtype == jnp.bfloat16)
    and table.ndim >= 1
    and (not tables or len(tables) == len(shape))
    and all(
      n and length % n == 0 for n, length in zip(tables, shape, strict=False)
    )
    and 1 <= table.shape[-1] <= (1 if grid else 2**bits)
  )
  if not fits:
    raise ValueError(
      f'{path} has shape {shape} and {bits} bits, but {data.dtype} codes of'
      f' shape {data.shape} and {table.dtype} levels of shape {table.shape}'
    )
  first_and_step = (grid[0], grid[1]) if grid else None
  packed = PackedArray(
    data, table, tuple(shape), bits, first_and_step, quantizer
  )
  if not np.all(np.isfinite(table)):
    raise ValueError(f'{path} has levels that are not finite')
  all_codes_valid = grid or table.shape[-1] == 2**bits
  if not all_codes_valid and _largest_code(data, bits, size) >= table.shape[-1]:
    raise ValueError(f'{path} has codes beyond its {table.shape[-1]} levels')
  return packed


def _largest_code(data: np.ndarray, bits: int, size: int) -> int:
  """Returns the largest of `size` codes, a block of codes at a time."""
  largest = 0
  for start in range(0, len(data), _BLOCK * bits):
    block = data[start : start + _BLOCK * bits]
    bitwise = np.unpackbits(block, bitorder='little')
    count = min(size - start * 8 // bits, len(bitwise) // bits)
    weights = 2 ** np.arange(bits, dtype=np.uint8)
    codes = bitwise[: count * bits].reshape(count, bits) * weights
    largest = max(largest, int(np.max(codes.sum(1, dtype=np.uint8))))
  return largest


def _integers(values: list[int], minimum: float, maximum: float) -> bool:
  # JSON also has true and 2.0, which compare equal to integers.
  return isinstance(values, list) and all(
    type(value) is int and minimum <= value <= maximum for value in values
  )


def _is_grid(grid: list[int]) -> bool:
  return (
    _integers(grid, -levels.LARGEST, 2 * levels.LARGEST)
    and len(grid) == 2
    and grid[0] <= levels.LARGEST
    and grid[1] >= 1
  )
