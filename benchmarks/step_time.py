"""Compares time, memory and work of one train step between estimators.

  python -m benchmarks.step_time [--quick] [--json FILE] [--only NAME …]

The command fails if a stack of layers that reduces to two or three scalars was
evaluated at every weight.
"""

import sys

from benchmarks import cases, flops, measure, table

QUICK = {'network': 'resnet8', 'batch_size': 16, 'rounds': 3}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__, any_images=True)
  options.add_argument('--hidden', type=int, default=100)
  options.add_argument('--only', nargs='+', choices=tuple(cases.ESTIMATORS))
  options.add_argument('--steps', type=int, default=2, help='steps per turn')
  args = table.parse(options, QUICK)

  at = cases.problem_of(args)
  compared = cases.all_cases(at, args.only, args.hidden)
  operations = [
    flops.count(case.step_fn, case.state, case.batch) for case in compared
  ]
  programs, seconds = measure.timed(compared, args.steps, args.rounds)
  rows = [
    {
      'backward': program.name,
      'ms': measure.medians(seconds)[i],
      'time / full precision': measure.ratios(seconds, i, over=0),
      'time / STE': measure.ratios(seconds, i, over=1),
      'peak MiB': program.memory / measure.MIB,
      'peak memory / STE': program.memory / programs[1].memory,
      'GFLOP': operations[i] / 1e9,
      'XLA GFLOP': program.xla_flops / 1e9,
      'XLA GB': program.xla_bytes / 1e9,
    }
    for i, program in enumerate(programs)
  ]
  table.show(
    'One step: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    rows,
    args,
    'GFLOP counts products and convolutions in every iteration of a loop. XLA'
    ' counts the body of a loop once.',
  )
  limit = cases.weights(at) * args.hidden
  expanded = [
    row['backward']
    for row, work in zip(rows, operations, strict=True)
    if row['backward'] in cases.COLLAPSED and work - operations[1] > limit
  ]
  if expanded:
    sys.exit(
      f'These stacks were evaluated at every weight, but should have'
      f' collapsed: {expanded}'
    )


if __name__ == '__main__':
  main()
