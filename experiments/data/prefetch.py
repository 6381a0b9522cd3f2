"""Work of threads: in order, bounded, and ahead of its use."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar('T')
S = TypeVar('S')


def cpu_count() -> int:
  """Returns the number of CPUs that this process may use."""
  # macOS cannot restrict a process to some CPUs.
  if not hasattr(os, 'sched_getaffinity'):
    return os.cpu_count() or 1
  return len(os.sched_getaffinity(0))


def map_bounded(
  pool: Executor, function: Callable[[S], T], items: Iterable[S], ahead: int
) -> Iterator[T]:
  """Maps a function over items in threads; yields the results in order.

  Unlike `Executor.map`, it reads at most `ahead` items before their results
  are used. If the caller stops, waiting items are dropped.
  """
  waiting: collections.deque[Future[T]] = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) >= ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    for future in waiting:
      future.cancel()


def prefetched(
  start: Callable[[int], Future[T]], ahead: int, count: int | None = None
) -> Callable[[int], T]:
  """Makes a function that prepares results before they are asked for.

  Args:
    start: `number -> future` of its result. It starts the work and returns.
    ahead: Number of results to prepare after the one that is asked for.
    count: Number of results that exist; None if there is no end.

  Returns:
    `number -> result`. It raises what the work of this number raised. Any order
    of numbers is valid; consecutive ones do not wait if the work is done.
  """
  pending: dict[int, Future[T]] = {}

  def get(number: int) -> T:
    end = number + ahead + 1
    wanted = range(number, end if count is None else min(end, count))
    for other in [n for n in pending if n not in wanted]:
      pending.pop(other).cancel()
    for other in wanted:
      if other not in pending:
        pending[other] = start(other)
    return pending.pop(number).result()

  return get
