"""Interleaved times of programs, and their costs as XLA reports them."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import flops
from benchmarks.cases import Case

MIB = 2**20
_CACHES = 'jax_enable_compilation_cache'


class Spread(NamedTuple):
  """The median, minimum and maximum of a number over the rounds."""

  median: float
  minimum: float
  maximum: float


class Program(NamedTuple):
  """A compiled case.

  Attributes:
    name: Name of the case.
    run: `() -> seconds` per step, a mean over a few steps.
    memory: Peak bytes of one step, state and batch included.
    xla_flops: FLOPs of the compiled program, loops counted once.
    xla_bytes: Bytes that the program reads and writes, loops counted once.
  """

  name: str
  run: Callable[[], float]
  memory: int
  xla_flops: float
  xla_bytes: float


def compile_case(case: Case, steps: int) -> Program:
  """Compiles a program of `steps` steps per turn, and runs one turn."""
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
  """Returns the bytes that a compiled program needs, by XLA's buffer plan."""
  stats = compiled.memory_analysis()
  return (
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes
  )


@contextlib.contextmanager
def no_cache() -> Iterator[None]:
  """Compiles programs that JAX would read from its cache on disk."""
  enabled = getattr(jax.config, _CACHES)
  try:
    jax.config.update(_CACHES, False)
    # JAX reads the flag once.
    compilation_cache.reset_cache()
    yield
  finally:
    jax.config.update(_CACHES, enabled)
    compilation_cache.reset_cache()


def interleaved(programs: Sequence[Program], rounds: int) -> list[list[float]]:
  """Returns the seconds per step of each program, one list per round.

  Every round runs each program once, so that all programs share the slow phases
  of the machine.
  """
  return [[program.run() for program in programs] for _ in range(rounds)]


def timed(
  cases: Sequence[Case], steps: int, rounds: int
) -> tuple[list[Program], list[list[float]]]:
  """Returns the programs of cases and their `interleaved` seconds."""
  programs = [compile_case(case, steps) for case in cases]
  return programs, interleaved(programs, rounds)


def rounds_of(
  cases: Sequence[Case], operations: float, rounds: int
) -> list[list[float]]:
  """Returns `interleaved` seconds; all turns have the same number of steps.

  Args:
    cases: Cases. The FLOPs of the first case determine the number of steps.
    operations: Approximate FLOPs of the first case per turn.
    rounds: Number of rounds.
  """
  first = cases[0]
  work = flops.count(first.step_fn, first.state, first.batch)
  return timed(cases, max(1, round(operations / work)), rounds)[1]


def differing(cases: Sequence[Case]) -> tuple[str, tuple[int, ...]] | None:
  """Compares the metrics of cases, one array each, with the first case's.

  Returns:
    The name of the first case whose bits differ, and the shape of its metrics;
    None if all are equal.
  """
  results = [
    np.asarray(jax.jit(case.step_fn)(case.state, case.batch)[1])
    for case in cases
  ]
  for case, result in zip(cases, results, strict=True):
    # A comparison of bytes distinguishes −0 from 0.
    if result.tobytes() != results[0].tobytes():
      return case.name, result.shape
  return None


def medians(seconds: Sequence[Sequence[float]]) -> list[float]:
  """Returns the median milliseconds of each program."""
  return [
    1e3 * statistics.median(turns) for turns in zip(*seconds, strict=True)
  ]


def ratios(seconds: Sequence[Sequence[float]], index: int, over: int) -> Spread:
  """Returns the time of one program over that of another, round by round."""
  return spread([turn[index] / turn[over] for turn in seconds])


def spread(values: Sequence[float]) -> Spread:
  """Returns the `Spread` of some numbers."""
  return Spread(statistics.median(values), min(values), max(values))
