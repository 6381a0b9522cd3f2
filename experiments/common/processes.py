"""Several processes that train one network together, usually one per host.

All processes run the same program with the same configuration and call the same
functions in the same order. Process 0 alone writes files and prints. Where the
others need a result of process 0, they wait for it; where a process fails in a
function of this module, all of them raise an error.

With one process these functions only call their arguments.
"""

import contextlib
import itertools
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.common.errors import (
  InvalidError,
  PeerError,
  UnreachableError,
  UserError,
)

# Seconds without a heartbeat after which a process counts as dead.
PEER_TIMEOUT = 100
_LEAST_LENGTH = 1024  # Bytes. Each power of two above it is compiled once.
# JAX counts calls and not steps: all processes agree on the number of a call.
_CALLS = itertools.count(1)
_T = TypeVar('_T')


def start(
  *,
  is_distributed: bool = False,
  coordinator: str | None = None,
  processes: int | None = None,
  process_id: int | None = None,
  peer_timeout: int = PEER_TIMEOUT,
) -> None:
  """Connects the processes of a run. It must come before any JAX computation.

  Without arguments there is one process, and the function does nothing.

  Args:
    is_distributed: JAX finds the other processes by itself: those of SLURM,
      Open MPI, Kubernetes or Cloud TPU.
    coordinator: Address HOST:PORT of process 0, which every process can reach.
    processes: Number of processes.
    process_id: Number of this process, from 0.
    peer_timeout: Seconds without a heartbeat after which a process counts as
      dead, and JAX ends the others.

  Raises:
    InvalidError: If the arguments do not fit each other.
    UnreachableError: If the processes cannot be found or connected.
  """
  manual = {
    '--coordinator': coordinator,
    '--processes': processes,
    '--process_id': process_id,
  }
  given = [name for name, value in manual.items() if value is not None]
  if not given and not is_distributed:
    return
  _check(is_distributed, manual, given)
  if peer_timeout < 1:
    raise InvalidError(
      f'--peer_timeout={peer_timeout} must be at least 1 second.'
    )
  try:
    jax.distributed.initialize(
      coordinator,
      processes,
      process_id,
      # Without it, JAX would look for a cluster even if all is given.
      cluster_detection_method=None if is_distributed else 'deactivate',
      heartbeat_timeout_seconds=peer_timeout,
      shutdown_timeout_seconds=peer_timeout,
    )
  except ValueError as error:
    raise UnreachableError(
      '--distributed finds no SLURM, Open MPI, Kubernetes or Cloud TPU job'
      f' ({_first_line(error)}). Start the command in such a job, or name the'
      ' processes by --coordinator=HOST:PORT --processes=N --process_id=I.'
    ) from error
  except RuntimeError as error:
    raise UnreachableError(
      'The processes of the run cannot be connected'
      f' ({_first_line(error)}). Check that all of them are started, and that'
      ' all of them reach the address of process 0.'
    ) from error


def _check(
  is_distributed: bool, manual: dict[str, Any], given: list[str]
) -> None:
  """Refuses flags that do not fit each other."""
  if is_distributed and given:
    raise InvalidError(
      f'--distributed finds the processes by itself: leave out'
      f' {" and ".join(given)}, or leave out --distributed.'
    )
  if is_distributed:
    return
  if missing := [name for name in manual if name not in given]:
    raise InvalidError(
      f'{" and ".join(given)} without {" and ".join(missing)}: give all of'
      ' --coordinator=HOST:PORT --processes=N --process_id=I, or none of them.'
    )
  coordinator, processes, process_id = manual.values()
  if not re.fullmatch(r'.+:\d+', coordinator):
    raise InvalidError(
      f'--coordinator={coordinator} must be HOST:PORT, the address of process'
      ' 0.'
    )
  if processes < 1:
    raise InvalidError(f'--processes={processes} must be at least 1.')
  if not 0 <= process_id < processes:
    raise InvalidError(
      f'--process_id={process_id} must be from 0 to {processes - 1}, since'
      f' --processes={processes}.'
    )


def are_several() -> bool:
  """Returns True if more than one process takes part in the run."""
  # Counting processes starts the devices, which a single process may not need.
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Returns True in the process that writes files and prints."""
  return not are_several() or jax.process_index() == 0


def from_first(function: Callable[[], _T]) -> _T:
  """Calls a function in process 0 alone, and returns its result in all of them.

  Args:
    function: Function whose result can be pickled.

  Raises:
    PeerError: In the other processes, if the function raised an error in
      process 0. Process 0 raises the error itself.
  """
  if not are_several():
    return function()
  content, error = b'', None
  if is_first():
    try:
      content = pickle.dumps((function(), ''))
    except Exception as raised:
      error = raised
      content = pickle.dumps((None, _described(raised)))
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
  sent = multihost_utils.broadcast_one_to_all(_padded(content, length))
  if error is not None:
    raise error
  # The bytes come from process 0 of this run.
  result, message = pickle.loads(sent[:length].tobytes())
  if message:
    raise PeerError(f'Process 0: {message}', is_shown=False)
  return result


def together(function: Callable[[], _T]) -> _T:
  """Calls a function in each process; if one of them fails, all of them fail.

  Args:
    function: Function in which no process waits for another.

  Returns:
    The result of this process.

  Raises:
    PeerError: In the processes where the function raised no error, if it raised
      one elsewhere.
  """
  if not are_several():
    return function()
  error = None
  try:
    result = function()
  except Exception as raised:
    error = raised
  messages = _gathered('' if error is None else _described(error))
  if error is not None:
    raise error
  for index, message in enumerate(messages):
    if message:
      raise PeerError(f'Process {index}: {message}', is_shown=is_first())
  return result


@contextlib.contextmanager
def in_first(
  context: Callable[[], contextlib.AbstractContextManager[None]],
) -> Iterator[None]:
  """Enters a context in process 0 alone; its error is raised in all of them."""
  with contextlib.ExitStack() as stack:
    from_first(lambda: stack.enter_context(context()))
    yield


def largest(number: int) -> int:
  """Returns the largest of the numbers that the processes give."""
  if not are_several():
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def agreed(question: Callable[[], bool]) -> bool:
  """Returns True in all processes if the answer of one of them is True."""
  return bool(largest(int(question())))


def check_equal(values: dict[str, str], what: str) -> None:
  """Refuses values that differ between the processes.

  Args:
    values: Text by name.
    what: Name of the values, for the message.

  Raises:
    InvalidError: In all processes, if a value differs.
  """
  if not are_several():
    return
  first = from_first(lambda: values)
  differ = [
    f'{name} is {values.get(name, "absent")}, and {first.get(name, "absent")}'
    ' in process 0'
    for name in sorted(first | values)
    if values.get(name) != first.get(name)
  ]

  def check() -> None:
    if differ:
      raise InvalidError(
        f'All processes of a run must have {what}, but {"; ".join(differ)}.'
        ' Start all of them with the same command and the same files.'
      )

  together(check)


def is_preempted() -> bool:
  """Returns True in all processes at the same call, if one received SIGTERM.

  All processes must call the function equally often. The call that returns True
  comes one or two calls after the signal.
  """
  return multihost_utils.reached_preemption_sync_point(next(_CALLS))


def _gathered(text: str) -> list[str]:
  """Returns the text of each process."""
  content = text.encode()
  lengths = multihost_utils.process_allgather(np.int32(len(content)))
  rows = multihost_utils.process_allgather(_padded(content, int(lengths.max())))
  return [
    row[:length].tobytes().decode()
    for row, length in zip(rows, lengths, strict=True)
  ]


def _padded(content: bytes, length: int) -> np.ndarray:
  """Returns bytes as an array whose size is a power of two."""
  size = max(_LEAST_LENGTH, 1 << max(0, length - 1).bit_length())
  return np.frombuffer(content.ljust(size, b'\0'), np.uint8)


def _described(error: Exception) -> str:
  if isinstance(error, UserError | OSError):
    return str(error) or type(error).__name__
  return f'{type(error).__name__}: {error}'


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0]
