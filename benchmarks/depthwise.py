"""Compares depthwise convolutions and their gradients on CPU with those of XLA.

  python -m benchmarks.depthwise [--quick] [--json FILE]

The shapes are those of MobileNetV2 at 224 pixels.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import cases, measure, table
from mq_jax.models.cpu import depthwise

Array = jax.Array
Convolution = Callable[[Array, Array], Array]

# Side, channels and stride.
SHAPES = ((56, 144, 1), (56, 144, 2), (14, 576, 1), (7, 960, 1))
BATCH = 32
STEPS = 3  # per turn
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
  g = rng.normal(size=jax.eval_shape(xla, x, w).shape).astype(np.float32)
  compared = [
    cases.Case(name, _step(function), np.float32(0), arguments)
    for name, function, arguments in (
      ('XLA', xla, (x, w)),
      ('ours', ours, (x, w)),
      ('XLA, gradients', _gradients(xla), (x, w, g)),
      ('ours, gradients', _gradients(ours), (x, w, g)),
    )
  ]
  seconds = measure.timed(compared, STEPS, rounds)[1]
  times = measure.medians(seconds)
  return {
    'image': f'{side}x{side}x{channels}',
    'stride': stride,
    'result ms': times[1],
    "result / XLA's": measure.ratios(seconds, 1, over=0),
    'gradients ms': times[3],
    "gradients / XLA's": measure.ratios(seconds, 3, over=2),
  }


def _gradients(function: Convolution) -> Callable[..., Any]:
  def gradients(x: Array, w: Array, g: Array) -> Any:
    return jax.vjp(function, x, w)[1](g)

  return gradients


def _step(function: Callable[..., Any]) -> Callable[..., Any]:
  return lambda state, batch: (state, function(*batch))


if __name__ == '__main__':
  main()
