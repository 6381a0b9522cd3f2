"""Compares one process on all cores with one process per core.

  python -m benchmarks.lanes [--quick] [--json FILE]

Each process trains with the straight-through rule. `experiments/queue.sh` has
such processes with LANES=2. The command needs Linux, which can bind a process
to its cores.
"""

import itertools
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import cases, measure, table

QUICK = {'network': 'resnet8', 'batch_size': 8, 'rounds': 2, 'steps': 1}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__, any_images=True)
  options.add_argument('--steps', type=int, default=5, help='steps per turn')
  args = table.parse(options, QUICK)
  if not hasattr(os, 'sched_setaffinity'):
    sys.exit('benchmarks.lanes binds processes to cores, which needs Linux.')
  cores = os.sched_getaffinity(0)
  compared = [
    [_start(cores, args)],
    [_start({core}, args) for core in sorted(cores)],
  ]
  os.sched_setaffinity(0, cores)
  # Steps per second of all processes together.
  rates = [
    [len(processes) / _turn(processes) for processes in compared]
    for _ in range(args.rounds)
  ]
  for process in itertools.chain(*compared):
    process.send(False)
  table.show(
    f'Training in several processes: median (minimum-maximum) of {args.rounds}'
    f' interleaved rounds of {args.steps} steps per process',
    [
      {
        'processes': len(processes),
        'cores of each': len(cores) // len(processes),
        'steps per second': statistics.median(turn[i] for turn in rates),
        'throughput / one process': measure.ratios(rates, i, over=0),
      }
      for i, processes in enumerate(compared)
    ],
    args,
  )


def _start(cores: set[int], args: Any) -> Connection:
  """Starts a process on some cores, and waits until it has compiled."""
  os.sched_setaffinity(0, cores)  # The process inherits the cores.
  ours, theirs = multiprocessing.Pipe()
  multiprocessing.get_context('spawn').Process(
    target=_train, args=(theirs, args), daemon=True
  ).start()
  theirs.close()  # If the process ends with an error, `recv` raises one too.
  ours.recv()
  return ours


def _turn(processes: Sequence[Connection]) -> float:
  """Runs a turn in all processes at once; returns the longest time per step."""
  for process in processes:
    process.send(True)
  return max(process.recv() for process in processes)


def _train(parent: Connection, args: Any) -> None:
  """Runs turns until the parent sends False."""
  case = cases.quantized(cases.problem_of(args), cases.STE, hidden=1)
  program = measure.compile_case(case, args.steps)
  parent.send(None)
  while parent.recv():
    parent.send(program.run())


if __name__ == '__main__':
  main()
