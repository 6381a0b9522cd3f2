"""Memory at the peak of one train step, as XLA plans its buffers.

python -m benchmarks.memory [--quick] [--json FILE]
"""

import jax

from benchmarks import cases, measure, table

QUICK = {'network': 'resnet8', 'batch_size': 16}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__.splitlines()[0])
  options.add_argument('--hidden', type=int, default=100)
  args = table.parse(options, QUICK)
  at = cases.problem(args.network, args.batch_size, args.dtype)
  compared = cases.all_cases(at, None, args.hidden)
  peaks = [peak(case) for case in compared]
  rows = []
  for case, needed in zip(compared, peaks, strict=True):
    extra = needed - peaks[1]
    kept = bytes_of(getattr(case.state, 'estimator_state', ()))
    rows.append(
      {
        'backward': case.name,
        'peak MB': needed / measure.MB,
        'peak / STE': needed / peaks[1],
        'beyond STE MB': extra / measure.MB,
        'pending gradients MB': bytes_of(getattr(case.state, 'grads', ()))
        / measure.MB,
        'estimator state MB': kept / measure.MB,
        'beyond STE / state': extra / kept if kept else None,
      }
    )
  table.show('Memory of one step', rows, args)


def peak(case: cases.Case) -> int:
  """Bytes that one step needs, its state and batch included."""
  step = jax.jit(case.step_fn, donate_argnums=0)
  return measure.peak_bytes(step.lower(case.state, case.batch).compile())


def bytes_of(tree: object) -> int:
  """Of all the leaves of a pytree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == '__main__':
  main()
