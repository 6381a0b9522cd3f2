"""Describes a network before training: parameters and their precision."""

import math

from ml_collections import ConfigDict

from mq_jax.selection import Selection

_ALL = ('all', '')


def describe_network(
  config: ConfigDict, selection: Selection, device: str
) -> str:
  """Returns a title and a short table of the parameters of a network.

  Each row has the quantized leaves of one part of the network, such as a stage.
  The leaves in full precision share one row.

  Args:
    config: A checked configuration.
    selection: Shapes of all leaves, and the quantizers of some.
    device: Name of the device.
  """
  sizes: dict[tuple[str, str], list[int]] = {}
  for path, shape in selection.shapes.items():
    row = ('other', 'full precision') if selection.selected else _ALL
    if path in selection.selected:
      row = (path.split('/')[0], config.quantizer)
    for key in {row, _ALL}:
      sizes.setdefault(key, []).append(math.prod(shape))
  # Python keeps the order of rows that are equal in this respect.
  ordered = sorted(sizes, key=lambda row: (row == _ALL, row[0] == 'other'))
  cells = [('part', 'leaves', 'parameters', 'weights')]
  for part, weights in ordered:
    found = sizes[part, weights]
    cells.append((part, f'{len(found)}', f'{sum(found):,}', weights))
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    f'  {part:{widths[0]}}  {leaves:>{widths[1]}}  {parameters:>{widths[2]}}'
    f'  {weights}'
    for part, leaves, parameters, weights in cells
  ]
  title = f'{config.network} {config.quantizer} {config.estimator}, {device}'
  return '\n'.join([title, *map(str.rstrip, lines)])
