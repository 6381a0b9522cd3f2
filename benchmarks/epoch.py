"""Compares the time of an epoch of the experiment with its bare train steps.

  python -m benchmarks.epoch [--quick] [--images 12800] [--json FILE]

A ratio above 1 includes the data pipeline (order, crop, flip, normalisation),
the loop over steps and the work of the host between two chunks. Images are
random.
"""

import time

import jax
import numpy as np

from benchmarks import cases, measure, table
from experiments.build.check import check
from experiments.build.networks import make_network
from experiments.common.parallel import data_mesh, pick
from experiments.configs import resnet20
from experiments.data.on_device import ImageSet, device_pipeline
from experiments.training.steps import make_steps

QUICK = {'network': 'resnet8', 'batch_size': 16, 'rounds': 3, 'images': 320}


def main() -> None:
  """Prints the table."""
  command = table.parser(__doc__)
  command.add_argument('--images', type=int, default=12800)
  command.add_argument('--estimator', default='multi_fc')
  args = table.parse(command, QUICK)
  config = resnet20.get_config()
  config.update(
    network=args.network,
    batch_size=args.batch_size,
    dtype=args.dtype,
    estimator=args.estimator,
  )
  check(config)
  at = cases.problem(args.network, args.batch_size, args.dtype)
  images = _random_images(args.images)
  pipeline = device_pipeline(images, config, data_mesh(1))
  net = make_network(config, 10)
  steps = make_steps(config, pipeline, net, at.params, at.model_state)
  state = steps.start()
  bare = cases.Case(
    'bare steps', steps.train.step_fn, jax.device_get(pick(state, 0)), at.batch
  )
  bare_program = measure.compile_case(bare, steps=steps.steps_per_epoch)
  states, done = [state], [0]

  def epoch() -> float:
    began = time.perf_counter()
    spe = steps.steps_per_epoch
    for first in range(done[0], done[0] + spe, config.chunk):
      count = min(config.chunk, done[0] + spe - first)
      states[0], totals = steps.run(states[0], first, count)
      jax.device_get(totals)
    done[0] += spe
    return (time.perf_counter() - began) / spe

  epoch()
  seconds = [[bare_program.run(), epoch()] for _ in range(args.rounds)]
  rows = [
    {
      'what': name,
      'ms per step': measure.medians(seconds)[i],
      'over bare steps': measure.ratios(seconds, i, over=0),
    }
    for i, name in enumerate(('bare steps', 'epoch'))
  ]
  table.show(
    f'An epoch of {steps.steps_per_epoch} steps, {args.estimator}: median'
    f' (minimum-maximum) of {args.rounds} rounds',
    rows,
    args,
  )


def _random_images(count: int) -> ImageSet:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
  labels = rng.integers(0, 10, count).astype(np.int32)
  return ImageSet(
    images,
    labels,
    images[:10],
    labels[:10],
    (0.5, 0.5, 0.5),
    (0.25, 0.25, 0.25),
    tuple('0123456789'),
    True,
  )


if __name__ == '__main__':
  main()
