"""Compares time and memory of the rules without φ with straight-through.

python -m benchmarks.rules [--quick] [--json FILE]
"""

import mq_jax
from benchmarks import cases, measure, table
from experiments.build import options
from experiments.build.estimators import (
  ESTIMATORS,
  EstimatorContext,
  make_estimator,
)
from experiments.build.schema import default_config

QUICK = {'network': 'resnet8', 'batch_size': 16, 'rounds': 3}
STEPS = 1000  # of the schedules


def rules(steps: int = STEPS) -> dict[str, mq_jax.GradientEstimator]:
  """Returns the estimators without φ by name, with their default options.

  Args:
    steps: Number of updates of their schedules.
  """
  made = {}
  context = EstimatorContext(steps, steps_per_epoch=steps, threshold=0.5)
  for name, declared in ESTIMATORS.items():
    if not declared.learned:
      config = default_config()
      config.estimator = name
      made[name] = make_estimator(
        config, options.complete('rule', config), context
      )
  return made


def main() -> None:
  """Prints the table."""
  parser = table.parser(__doc__)
  parser.add_argument('--steps', type=int, default=2, help='steps per turn')
  args = table.parse(parser, QUICK)
  at = cases.problem(args.network, args.batch_size, args.dtype)
  compared = [
    cases.with_estimator(at, name, rule) for name, rule in rules().items()
  ]
  programs, seconds = measure.timed(compared, args.steps, args.rounds)
  rows = [
    {
      'rule': program.name,
      'ms': measure.medians(seconds)[i],
      'time / STE': measure.ratios(seconds, i, over=0),
      'peak memory / STE': program.memory / programs[0].memory,
    }
    for i, program in enumerate(programs)
  ]
  table.show(
    'One step of each rule without φ: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    rows,
    args,
  )


if __name__ == '__main__':
  main()
