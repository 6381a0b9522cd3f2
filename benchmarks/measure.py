"""Interleaved times, and what a compiled program says of itself."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from benchmarks import flops
from benchmarks.cases import Case

MB = 2**20


class Spread(NamedTuple):
  """Median, least and largest of a number over the rounds."""

  median: float
  least: float
  largest: float


class Program(NamedTuple):
  """A case, compiled.

  Attributes:
    name: Of the case.
    run: `() -> seconds` of one step, the mean over a few.
    memory: Bytes at the peak of one step, state and batch included.
    xla_flops: Of the compiled program, loops counted once.
    xla_bytes: Read and written by it, likewise.
  """

  name: str
  run: Callable[[], float]
  memory: int
  xla_flops: float
  xla_bytes: float


def compile_case(case: Case, steps: int) -> Program:
  """Compiles `steps` steps at a time, and the first run is over."""
  step = jax.jit(case.step_fn, donate_argnums=0)
  batch = jax.device_put(case.batch)
  compiled = step.lower(case.state, batch).compile()
  cost = compiled.cost_analysis() or {}
  state = [jax.device_put(case.state)]

  def chunk(state: Any, batch: Any) -> tuple[Any, Any]:
    return lax.scan(
      lambda state, _: case.step_fn(state, batch), state, length=steps
    )

  # XLA's CPU compiler runs convolutions within a loop far slower.
  in_python = jax.default_backend() == 'cpu'
  call = compiled if in_python else jax.jit(chunk, donate_argnums=0)

  def run() -> float:
    began = time.perf_counter()
    for _ in range(steps if in_python else 1):
      state[0], metrics = call(state[0], batch)
    jax.block_until_ready((state[0], metrics))
    return (time.perf_counter() - began) / steps

  run()
  return Program(
    case.name,
    run,
    peak_bytes(compiled),
    cost.get('flops', 0.0),
    cost.get('bytes accessed', 0.0),
  )


def peak_bytes(compiled: Any) -> int:
  """Memory that a compiled program needs, by XLA's own plan of its buffers."""
  stats = compiled.memory_analysis()
  return (
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes
  )


def interleaved(programs: Sequence[Program], rounds: int) -> list[list[float]]:
  """Seconds of a step of each program, one list a round.

  In every round each program has its turn, so that what slows the machine for a
  while slows all of them.
  """
  return [[program.run() for program in programs] for _ in range(rounds)]


def rounds_of(
  cases: Sequence[Case], operations: float, rounds: int
) -> list[list[float]]:
  """`interleaved` seconds, each turn of about as many FLOPs of the first case.

  Args:
    cases: The first has the products that are counted.
    operations: FLOPs of a turn: enough to outlast the clock's grain.
    rounds: As in `interleaved`.
  """
  first = cases[0]
  work = flops.count(first.step_fn, first.state, first.batch)
  steps = max(1, round(operations / work))
  programs = [compile_case(case, steps) for case in cases]
  return interleaved(programs, rounds)


def differing(cases: Sequence[Case]) -> tuple[str, tuple[int, ...]] | None:
  """A case whose metrics, one array, are not the first one's to the last bit.

  Returns:
    Its name and the shape of what it gives; None if there is none.
  """
  results = [
    np.asarray(jax.jit(case.step_fn)(case.state, case.batch)[1])
    for case in cases
  ]
  for case, result in zip(cases, results, strict=True):
    # As bytes: −0 would not be 0.
    if result.tobytes() != results[0].tobytes():
      return case.name, result.shape
  return None


def medians(seconds: Sequence[Sequence[float]]) -> list[float]:
  """Milliseconds of each program."""
  return [
    1e3 * statistics.median(turns) for turns in zip(*seconds, strict=True)
  ]


def ratios(seconds: Sequence[Sequence[float]], index: int, over: int) -> Spread:
  """Time of one program over that of another, round by round."""
  return spread([turn[index] / turn[over] for turn in seconds])


def spread(values: Sequence[float]) -> Spread:
  """The `Spread` of some numbers."""
  return Spread(statistics.median(values), min(values), max(values))
