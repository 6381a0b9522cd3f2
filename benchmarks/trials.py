"""Compares several trials in one program, as a batch axis, with one trial.

python -m benchmarks.trials [--quick] [--trials 5] [--json FILE]
"""

import jax

from benchmarks import cases, measure, table
from experiments.common import parallel

QUICK = {'network': 'resnet8', 'batch_size': 8, 'rounds': 3, 'trials': 3}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__, any_images=True)
  options.add_argument('--trials', type=int, default=5)
  options.add_argument('--steps', type=int, default=2)
  options.add_argument(
    '--estimator', choices=tuple(cases.ESTIMATORS), default='fc_grad'
  )
  args = table.parse(options, QUICK)
  at = cases.problem_of(args)
  single = cases.quantized(at, args.estimator, hidden=100)
  compared = [single, _several(single, args.trials)]
  programs, seconds = measure.timed(compared, args.steps, args.rounds)
  rows = [
    {
      'trials': program.name,
      'ms': measure.medians(seconds)[i],
      'time / one trial': measure.ratios(seconds, i, over=0),
      'peak memory / one trial': program.memory / programs[0].memory,
    }
    for i, program in enumerate(programs)
  ]
  table.show(
    f'One step of {args.trials} trials, {args.estimator}: median'
    f' (minimum-maximum) of {args.rounds} rounds',
    rows,
    args,
    'On CPU the experiments run trials one after another.',
  )


def _several(single: cases.Case, count: int) -> cases.Case:
  together = parallel.over_trials(lambda args: single.step_fn(*args), count)
  return cases.Case(
    f'{count}, a batch axis',
    lambda state, batch: together((state, batch)),
    jax.device_get(parallel.stack([single.state] * count)),
    parallel.stack([single.batch] * count),
  )


if __name__ == '__main__':
  main()
