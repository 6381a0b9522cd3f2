"""Tests work in threads: order, bounds and errors."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from experiments.data import prefetch


def test_map_bounded_keeps_order_and_bound():
  taken = []

  def items():
    for i in range(20):
      taken.append(i)
      yield i

  with ThreadPoolExecutor(3) as pool:
    results = prefetch.map_bounded(pool, lambda i: i * i, items(), ahead=4)
    assert next(results) == 0
    assert len(taken) == 4
    assert list(results) == [i * i for i in range(1, 20)]


def test_map_bounded_raises_error_of_function():
  with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
    list(prefetch.map_bounded(pool, lambda i: 1 // i, [1, 0, 2], ahead=2))


class Starts:
  """Records what was started; results are ready at once unless told so."""

  def __init__(self, ready=True):
    self.numbers, self.futures, self.ready = [], {}, ready

  def __call__(self, number):
    future = Future()
    if self.ready:
      future.set_result(10 * number)
    self.numbers.append(number)
    self.futures[number] = future
    return future


def test_prefetched_starts_each_number_once():
  starts = Starts()
  get = prefetch.prefetched(starts, 3)
  assert [get(number) for number in range(5)] == [0, 10, 20, 30, 40]
  assert starts.numbers == list(range(8))


def test_prefetched_jump_restarts_and_cancels():
  starts = Starts(ready=False)
  get = prefetch.prefetched(starts, 2)
  threads = [threading.Thread(target=get, args=(n,)) for n in (0, 7)]
  for thread, number in zip(threads, (0, 7), strict=True):
    thread.start()
    while number + 2 not in starts.futures:
      pass
  assert starts.futures[1].cancelled()
  assert starts.futures[2].cancelled()
  assert starts.numbers == [0, 1, 2, 7, 8, 9]
  for future in starts.futures.values():
    if not future.cancelled():
      future.set_result(None)
  for thread in threads:
    thread.join()


def test_prefetched_same_number_keeps_later_work():
  starts = Starts()
  get = prefetch.prefetched(starts, 2)
  assert [get(0), get(0), get(1)] == [0, 0, 10]
  assert starts.numbers == [0, 1, 2, 0, 3]


def test_prefetched_stops_at_count():
  starts = Starts()
  get = prefetch.prefetched(starts, 5, count=3)
  assert [get(number) for number in (0, 1, 2, 0)] == [0, 10, 20, 0]
  assert starts.numbers == [0, 1, 2, 0, 1, 2]


def test_prefetched_error_is_raised_and_work_is_repeated():
  calls = []

  def start(number):
    future = Future()
    if calls:
      future.set_result(number)
    else:
      future.set_exception(OSError('disk'))
    calls.append(number)
    return future

  get = prefetch.prefetched(start, 0)
  with pytest.raises(OSError, match='disk'):
    get(4)
  assert get(4) == 4
