"""Compares a step of the LSTM of several widths with straight-through.

  python -m benchmarks.lstm_width [--quick] [--json FILE]

`experiments/studies/lstm_width.py` measures what each width reaches, with the
same network.
"""

import mq_jax
from benchmarks import cases, measure, table
from experiments.studies import lstm_width

QUICK = {'rounds': 2, 'steps': 1, 'batch_size': 2, 'widths': [1, 4]}


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--batch_size', type=int, default=0)
  options.add_argument('--steps', type=int, default=5, help='steps per turn')
  options.add_argument(
    '--widths', type=int, nargs='+', default=list(lstm_width.WIDTHS)
  )
  args = table.parse(options, QUICK)
  config = next(iter(lstm_width.get_study().settings.values()))
  at = cases.text_problem(config, args.batch_size or config.batch_size)
  compared = [cases.with_estimator(at, cases.STE, mq_jax.ste())]
  compared += [
    cases.with_estimator(
      at,
      f'lstm_fc, {width}' + f', {points} points' * (points > 0),
      mq_jax.lstm_fc(hidden=width, grid_points=points),
    )
    for points in (0, lstm_width.GRID_POINTS)
    for width in args.widths
  ]
  programs, seconds = measure.timed(compared, args.steps, args.rounds)
  table.show(
    'One step of the LSTM by its width: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    [
      {
        'backward': program.name,
        'ms': measure.medians(seconds)[i],
        'time / STE': measure.ratios(seconds, i, over=0),
        'peak MiB': program.memory / measure.MIB,
        'peak memory / STE': program.memory / programs[0].memory,
      }
      for i, program in enumerate(programs)
    ],
    args,
    f'{config.network}, width {config.embed_dim}, {config.depth} blocks.',
  )


if __name__ == '__main__':
  main()
