"""A table of a network's layers: bits, bytes, work."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mq_jax import levels
from mq_jax.late_update import State
from mq_jax.macs import layer_macs
from mq_jax.packed_array import codes_and_levels, is_packed
from mq_jax.packing import PackedParams, pack
from mq_jax.selection import Rules, named_leaves

Array = jax.Array


class LayerSummary(NamedTuple):
  """One leaf of the parameters.

  Attributes:
    path: Of the leaf.
    shape: Of the weight.
    bits: Of a weight, as it is stored.
    used: How many different values it has, of those that the bits tell apart;
      the most in one channel. None where it is not quantized.
    scale: α where the values are integers times α, the mean over the channels
      where they have one each; else None.
    bytes_before: In full precision.
    bytes: Packed, levels included.
    macs: Products of a weight and an activation that one example takes; None if
      not known.
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
  """What `summary` found; `str` makes a table of it.

  Attributes:
    layers: One a leaf, in the order of the pytree.
    state_bytes: Of batch statistics and the like.
  """

  layers: tuple[LayerSummary, ...]
  state_bytes: int

  @property
  def total_bytes(self) -> int:
    """Of the packed network, without the header of a file."""
    return sum(layer.bytes for layer in self.layers) + self.state_bytes

  @property
  def total_bytes_before(self) -> int:
    """Of the same in full precision."""
    before = sum(layer.bytes_before for layer in self.layers)
    return before + self.state_bytes

  def __str__(self) -> str:
    """The table, in plain text, quantized layers and a line for the others."""
    return _table(self)


def summary(
  params: State | PackedParams | Any,
  quantizer: Rules | None = None,
  *,
  apply_fn: Callable[..., Any] | None = None,
  inputs: Sequence[Any] = (),
) -> Summary:
  """Describes the layers of a network as they will be packed.

    print(mq_jax.summary(state, mq_jax.bwn()))

  Args:
    params: As `pack` takes them, or what it returned.
    quantizer: Rules, as `pack` takes them; None with what it returned.
    apply_fn: `(params, *inputs)`, the network, from which the MACs are counted;
      nothing is computed. None: they stay unknown.
    inputs: A batch of one example, or shapes of one.

  Returns:
    The `Summary`.

  Raises:
    ValueError: As `pack` does, or if rules are missing, or too much.
  """
  if isinstance(params, PackedParams):
    packed = params
    if quantizer is not None:
      raise ValueError('these are packed already: leave out the quantizer.')
  elif quantizer is None:
    raise ValueError('quantizer is None: hand over the rules of the training.')
  else:
    packed = pack(params, quantizer)
  leaves = named_leaves(packed.params, is_leaf=is_packed)
  macs = layer_macs(packed.params, apply_fn, *inputs) if apply_fn else {}
  layers = [
    _layer(path, leaf, macs.get(path, 0) if apply_fn else None)
    for path, leaf in leaves.items()
  ]
  state = jax.tree.leaves(packed.model_state)
  return Summary(tuple(layers), sum(np.asarray(leaf).nbytes for leaf in state))


def _layer(path: str, leaf: Any, macs: int | None) -> LayerSummary:
  if not is_packed(leaf):
    array = np.asarray(leaf)
    size = array.nbytes
    bits = 8 * array.itemsize
    return LayerSummary(path, array.shape, bits, None, None, size, size, macs)
  codes, table = (np.asarray(part) for part in codes_and_levels(leaf))
  _, values = levels.by_value(codes, table.shape[:-1])
  # The last code in use repeats where other channels use more.
  used = max(
    len(np.unique(row)) for row in values.reshape(-1, values.shape[-1])
  )
  scale = levels.scale_of(table)
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


def _table(whole: Summary) -> str:
  quantized = [layer for layer in whole.layers if layer.used is not None]
  others = [layer for layer in whole.layers if layer.used is None]
  rest = sum(layer.bytes for layer in others)
  head = ['layer', 'shape', 'bits', 'values', 'scale', 'bytes', 'share', 'MACs']
  rows = [_row(layer, whole.total_bytes) for layer in quantized]
  number = '1 leaf' if len(others) == 1 else f'{len(others)} leaves'
  rows.append(
    ['full precision', number, *[''] * 3, f'{rest:,}',
     _share(rest, whole.total_bytes), _sum_of_macs(others)]
  )  # fmt: skip
  if whole.state_bytes:
    rows.append(
      ['model state', *[''] * 4, f'{whole.state_bytes:,}',
       _share(whole.state_bytes, whole.total_bytes), '']
    )  # fmt: skip
  rows.append(
    ['in all', *[''] * 4, f'{whole.total_bytes:,}', '100.0%',
     _sum_of_macs(whole.layers)]
  )  # fmt: skip
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  ruler = ['-' * width for width in widths]
  lines = [_line(row, widths) for row in (head, ruler, *rows)]
  ratio = whole.total_bytes_before / whole.total_bytes
  lines.append(
    f'{whole.total_bytes_before:,} bytes before, {whole.total_bytes:,} packed:'
    f' {ratio:.1f} times smaller'
  )
  return '\n'.join(lines)


def _row(layer: LayerSummary, total: int) -> list[str]:
  return [
    layer.path,
    'x'.join(map(str, layer.shape)),
    str(layer.bits),
    f'{layer.used} of {2**layer.bits}',
    '' if layer.scale is None else f'{layer.scale:.4g}',
    f'{layer.bytes:,}',
    _share(layer.bytes, total),
    _sum_of_macs([layer]),
  ]


def _share(part: int, total: int) -> str:
  return f'{100 * part / total:.1f}%'


def _sum_of_macs(layers: Sequence[LayerSummary]) -> str:
  known = [layer.macs for layer in layers if layer.macs is not None]
  return f'{sum(known):,}' if known else ''


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
  left = [cell.ljust(w) for cell, w in zip(cells[:2], widths, strict=False)]
  right = [c.rjust(w) for c, w in zip(cells[2:], widths[2:], strict=True)]
  return '  '.join([*left, *right]).rstrip()
