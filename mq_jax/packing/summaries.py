"""A table of the layers of a network: bits, bytes, multiplications."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.packing import levels
from mq_jax.packing.macs import layer_macs
from mq_jax.packing.packed_array import codes_and_levels, is_packed
from mq_jax.packing.packed_params import PackedParams, pack
from mq_jax.selection import Rules, named_leaves

Array = jax.Array


class LayerSummary(NamedTuple):
  """Summary of one leaf of the parameters.

  Attributes:
    path: Path of the leaf.
    shape: Shape of the leaf.
    bits: Stored bits per weight.
    used: Number of different values in the leaf or, with one table per channel,
      the maximum over channels. None if the leaf is not quantized.
    scale: α if the values are integers times α, averaged over the channels if
      each channel has its own α. Otherwise None.
    bytes_before: Bytes in full precision.
    bytes: Bytes when packed, levels included.
    macs: Multiplications of the leaf per example, or None if unknown.
  """

  path: str
  shape: tuple[int, ...]
  bits: int
  used: int | None
  scale: float | None
  bytes_before: int
  bytes: int
  macs: int | None


class Summary(NamedTuple):
  """Summary of a network; `str` returns it as a table.

  Attributes:
    layers: One entry per leaf, in the order of the pytree.
    state_bytes: Bytes of the model state, such as batch statistics.
  """

  layers: tuple[LayerSummary, ...]
  state_bytes: int

  @property
  def total_bytes(self) -> int:
    """Bytes of the packed network, without the header of a file."""
    return sum(layer.bytes for layer in self.layers) + self.state_bytes

  @property
  def total_bytes_before(self) -> int:
    """Bytes of the network in full precision."""
    before = sum(layer.bytes_before for layer in self.layers)
    return before + self.state_bytes

  def __str__(self) -> str:
    """Returns a plain-text table; other leaves share one line."""
    return _table(self)


def summary(
  params: PackedParams | Any,
  quantizer: Rules | None = None,
  *,
  apply_fn: Callable[..., Any] | None = None,
  inputs: Sequence[Any] = (),
) -> Summary:
  """Describes the layers of a network as `pack` packs them.

    print(mq_jax.summary(train.pack(state)))

  Args:
    params: `PackedParams`, or parameters as in `pack`.
    quantizer: Rules, as in `pack`; None with `PackedParams`.
    apply_fn: The network, `(params, *inputs) -> outputs`, which is only traced.
      None leaves the number of multiplications unknown.
    inputs: A batch of one example, or the shapes of such a batch.

  Returns:
    The `Summary`.

  Raises:
    ValueError: If `pack` raises it, if rules are missing, or if rules are given
      together with `PackedParams`.
  """
  if isinstance(params, PackedParams):
    packed = params
    if quantizer is not None:
      raise ValueError('params are packed already: leave out the quantizer.')
  elif quantizer is None:
    raise ValueError('quantizer is None: pass the rules of the training.')
  else:
    packed = pack(params, quantizer)
  leaves = named_leaves(packed.params, is_leaf=is_packed)
  macs = layer_macs(packed.params, apply_fn, *inputs) if apply_fn else {}
  layers = [
    _layer(path, leaf, macs.get(path, 0) if apply_fn else None)
    for path, leaf in leaves.items()
  ]
  state = jax.tree.leaves(packed.model_state)
  return Summary(tuple(layers), sum(_bytes(leaf) for leaf in state))


def _bytes(leaf: Any) -> int:
  if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf).nbytes


def _layer(path: str, leaf: Any, macs: int | None) -> LayerSummary:
  if not is_packed(leaf):
    array = np.asarray(leaf)
    size = array.nbytes
    bits = 8 * array.itemsize
    return LayerSummary(path, array.shape, bits, None, None, size, size, macs)
  codes, table = codes_and_levels(leaf)
  integers = np.asarray(codes).astype(np.int32)
  used = levels.by_value(integers, table.shape[:-1])[1].shape[-1]
  scale = levels.scales_of(table)
  return LayerSummary(
    path,
    leaf.shape,
    leaf.bits,
    used,
    None if scale is None else float(np.mean(scale)),
    math.prod(leaf.shape) * table.itemsize,
    leaf.data.nbytes + leaf.levels.nbytes,
    macs,
  )


def _table(network: Summary) -> str:
  quantized = [layer for layer in network.layers if layer.used is not None]
  others = [layer for layer in network.layers if layer.used is None]
  total = network.total_bytes

  def row(
    cells: Sequence[str], size: int, layers: Sequence[LayerSummary]
  ) -> list[str]:
    macs = [layer.macs for layer in layers if layer.macs is not None]
    return [
      *cells,
      *[''] * (5 - len(cells)),
      f'{size:,}',
      f'{100 * size / total:.1f}%',
      f'{sum(macs):,}' if macs else '',
    ]

  head = ['layer', 'shape', 'bits', 'values', 'scale', 'bytes', 'share', 'MACs']
  rows = [row(_cells(layer), layer.bytes, [layer]) for layer in quantized]
  leaves = '1 leaf' if len(others) == 1 else f'{len(others)} leaves'
  other_bytes = sum(layer.bytes for layer in others)
  rows.append(row(['full precision', leaves], other_bytes, others))
  if network.state_bytes:
    rows.append(row(['model state'], network.state_bytes, []))
  rows.append(row(['in all'], total, network.layers))
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  ruler = ['-' * width for width in widths]
  lines = [_line(cells, widths) for cells in (head, ruler, *rows)]
  before = network.total_bytes_before
  lines.append(
    f'{before:,} bytes before, {total:,} packed: {before / total:.1f} times'
    ' smaller'
  )
  return '\n'.join(lines)


def _cells(layer: LayerSummary) -> list[str]:
  return [
    layer.path,
    'x'.join(map(str, layer.shape)),
    str(layer.bits),
    f'{layer.used} of {2**layer.bits}',
    '' if layer.scale is None else f'{layer.scale:.4g}',
  ]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
  left = [cell.ljust(w) for cell, w in zip(cells[:2], widths, strict=False)]
  right = [c.rjust(w) for c, w in zip(cells[2:], widths[2:], strict=True)]
  return '  '.join([*left, *right]).rstrip()
