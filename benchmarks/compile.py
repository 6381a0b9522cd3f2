"""Shows the seconds that JAX and XLA take to compile the train step.

python -m benchmarks.compile [--quick] [--network resnet110] [--json FILE]
"""

import time

import jax

from benchmarks import cases, measure, table

QUICK = {'network': 'resnet8', 'batch_size': 16}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__, any_images=True)
  options.set_defaults(network='resnet110')
  options.add_argument('--only', nargs='+', choices=tuple(cases.ESTIMATORS))
  args = table.parse(options, QUICK)
  at = cases.problem_of(args)
  names = args.only or [cases.STE, 'multi_fc', 'lstm_fc']
  with measure.no_cache():
    rows = [_row(case) for case in cases.all_cases(at, names, hidden=100)]
  table.show('Time to compile one step', rows, args)


def _row(case: cases.Case) -> dict[str, object]:
  began = time.perf_counter()
  lowered = jax.jit(case.step_fn, donate_argnums=0).lower(
    case.state, case.batch
  )
  traced = time.perf_counter()
  lowered.compile()
  compiled = time.perf_counter()
  return {
    'backward': case.name,
    'trace s': traced - began,
    'compile s': compiled - traced,
    'together s': compiled - began,
    'lines of StableHLO': len(lowered.as_text().splitlines()),
  }


if __name__ == '__main__':
  main()
