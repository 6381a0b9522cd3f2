"""Shows the peak memory of one train step, by XLA's buffer plan.

python -m benchmarks.memory [--quick] [--json FILE]
"""

import contextlib
from collections.abc import Iterator

import jax

from benchmarks import cases, measure, table
from mq_jax.estimators import coordinates

# These estimators are measured with all coordinates in one block too.
UNBLOCKED = ('multi_fc, tanh', 'lstm_fc')
QUICK = {'network': 'resnet8', 'batch_size': 16}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__, any_images=True)
  options.add_argument('--hidden', type=int, default=100)
  args = table.parse(options, QUICK)
  at = cases.problem_of(args)
  compared = cases.all_cases(at, None, args.hidden)
  peaks = [peak(case) for case in compared]
  with unblocked():
    for name in UNBLOCKED:
      case = cases.quantized(at, name, args.hidden)
      compared.append(case._replace(name=f'{name}, unblocked'))
      peaks.append(peak(case))
  rows = []
  for case, needed in zip(compared, peaks, strict=True):
    extra = needed - peaks[1]
    kept = bytes_of(getattr(case.state, 'estimator_state', ()))
    rows.append(
      {
        'backward': case.name,
        'peak MiB': needed / measure.MIB,
        'peak / STE': needed / peaks[1],
        'beyond STE MiB': extra / measure.MIB,
        'pending gradients MiB': bytes_of(getattr(case.state, 'grads', ()))
        / measure.MIB,
        'estimator state MiB': kept / measure.MIB,
        # The keys of slim are too small for a ratio.
        'beyond STE / state': extra / kept if kept > measure.MIB else None,
      }
    )
  table.show('Memory of one step', rows, args)


@contextlib.contextmanager
def unblocked() -> Iterator[None]:
  """Evaluates estimators at all coordinates in one block."""
  size = coordinates.BLOCK
  coordinates.BLOCK = 2**31 - 1
  try:
    yield
  finally:
    coordinates.BLOCK = size


def peak(case: cases.Case) -> int:
  """Returns the peak bytes of one step, state and batch included."""
  step = jax.jit(case.step_fn, donate_argnums=0)
  return measure.peak_bytes(step.lower(case.state, case.batch).compile())


def bytes_of(tree: object) -> int:
  """Returns the bytes of all leaves of a pytree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == '__main__':
  main()
