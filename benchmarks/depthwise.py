"""Compares depthwise convolutions and their gradients on CPU with those of XLA.

  python -m benchmarks.depthwise [--quick] [--json FILE]

The shapes are those of MobileNetV2 at 224 pixels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases, measure, table
from mq_jax.models.cpu import depthwise

Array = jax.Array
Convolution = Callable[[Array, Array], Array]

# Side, channels and stride.
SHAPES = ((56, 144, 1), (56, 144, 2), (14, 576, 1), (7, 960, 1))
BATCH = 32
PADDING = ((1, 1), (1, 1))
QUICK = {'rounds': 2, 'batch_size': 1}


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--batch_size', type=int, default=BATCH)
  args = table.parse(options, QUICK)
  table.show(
    f'Depthwise convolutions of 3x3, batch {args.batch_size}, float32: median'
    f' (minimum-maximum) of {args.rounds} rounds',
    [_row(*shape, args.batch_size, args.rounds) for shape in SHAPES],
    args,
    'The gradients are those of the images and of the filters.',
  )


def _row(
  side: int, channels: int, stride: int, batch: int, rounds: int
) -> table.Row:
  def ours(x: Array, w: Array) -> Array:
    return depthwise.depthwise_conv_general_dilated(
      x, w, (stride, stride), PADDING, feature_group_count=channels
    )

  def xla(x: Array, w: Array) -> Array:
    return depthwise.plain_depthwise(x, w, (stride, stride), PADDING)

  rng = np.random.default_rng(0)
  x = rng.normal(size=(batch, side, side, channels)).astype(np.float32)
  w = rng.normal(size=(3, 3, 1, channels)).astype(np.float32)
  compared = [
    cases.Case(name, _step(function), np.float32(0), (x, w))
    for name, function in {
      'XLA': xla,
      'ours': ours,
      'XLA, gradients': _gradients(xla),
      'ours, gradients': _gradients(ours),
    }.items()
  ]
  seconds = measure.timed(compared, 1, rounds)[1]
  times = measure.medians(seconds)
  return {
    'image': f'{side}x{side}x{channels}',
    'stride': stride,
    'result ms': times[1],
    "result / XLA's": measure.ratios(seconds, 1, over=0),
    'gradients ms': times[3],
    "gradients / XLA's": measure.ratios(seconds, 3, over=2),
  }


def _gradients(function: Convolution) -> Callable[[Array, Array], Any]:
  def gradients(x: Array, w: Array) -> Any:
    y, pull_back = jax.vjp(function, x, w)
    return pull_back(jnp.ones_like(y))

  return gradients


def _step(function: Callable[[Array, Array], Any]) -> Callable[..., Any]:
  def step(total: Array, batch: Any) -> tuple[Array, Any]:
    results = function(*batch)
    # The sum makes each step wait for the previous one.
    return total + jax.tree.leaves(results)[0][0, 0, 0, 0], results

  return step


if __name__ == '__main__':
  main()
