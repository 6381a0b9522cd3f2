"""Runs an artefact in a separate process, which it may crash.

  python -m experiments.deploy.worker ARTEFACT [exact]

reads batches of examples from standard input and writes their logits to
standard output. A message is a line of JSON, which may announce an array in the
format of NumPy. The process ends by itself if an answer takes too long, or if
the process that started it ends.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from experiments.common.errors import InvalidError, MissingError, UserError
from experiments.deploy.artefact import BATCH, Artefact, open_here

# Precision of products. At the default one, GPUs round inputs to 10 bits, and
# two programs of one function differ by more than a check allows.
PRECISION = 'highest'
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MODULE = 'experiments.deploy.worker'
_EXACT = 'exact'
_SECONDS_TO_END = 5.0
_SECONDS_TO_NOTICE = 1.0  # Longest time until the end of the parent counts.
# Opening takes seconds, most of them for imports. A damaged file can trap the
# parser of jaxlib in an endless loop.
SECONDS_TO_OPEN = 60
# For `BATCH` examples. The first ones wait for a compilation. A crafted program
# can be endless.
SECONDS_PER_BATCH = 300


def start(
  path: pathlib.Path, exact: bool = False, platform: str = ''
) -> Artefact:
  """Opens an artefact in a new process, which ends with the artefact.

  Args:
    path: File that `artefact.open_here` opens.
    exact: As in `artefact.open_here`.
    platform: Platform of JAX in the process; that of the machine if empty.

  Returns:
    The `Artefact`. `logits` raises an InvalidError if the process fails or
    takes too long, or if the logits are not finite. Any error ends the process.

  Raises:
    MissingError: If a package that opens the file is missing.
    InvalidError: If the file cannot be opened in `SECONDS_TO_OPEN`, or crashes
      the process.
  """
  log = tempfile.TemporaryFile('w+', errors='replace')  # noqa: SIM115
  process = subprocess.Popen(
    [sys.executable, '-m', _MODULE, path.absolute(), *[_EXACT] * exact],
    cwd=_ROOT,
    env={
      **os.environ,
      'JAX_DEFAULT_MATMUL_PRECISION': PRECISION,
      **({'JAX_PLATFORMS': platform} if platform else {}),
    },
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=log,
  )
  assert process.stdin
  assert process.stdout
  requests, answers = process.stdin, process.stdout

  def answer(task: str, seconds: int) -> dict[str, Any]:
    message = _receive(answers)
    if message is None:
      cause = _cause(process, log) or f'{task} took more than {seconds} seconds'
      raise InvalidError(
        f'{path} crashed the process that opened it ({cause}). Copy the file'
        ' again, or do not use it.'
      )
    if kind := message.get('kind'):
      raise (MissingError if kind == 'missing' else InvalidError)(
        message['text']
      )
    return message

  def logits(examples: np.ndarray) -> np.ndarray:
    if not end.alive:
      raise InvalidError(
        f'{path} has failed before, which ended its process. Open it again.'
      )
    with _calling_on_error(end):
      return checked_logits(examples)

  def checked_logits(examples: np.ndarray) -> np.ndarray:
    # If the process has ended, its answer says why.
    with contextlib.suppress(BrokenPipeError):
      _send(requests, array=examples)
    count = len(examples)
    task = f'computing the logits of {count} examples'
    found = answer(task, _seconds_for(count))['array']
    # One vector of logits per image, or per token.
    places = examples.shape if examples.ndim == 2 else (count,)
    if found.shape[:-1] != places or found.dtype != 'float32':
      raise InvalidError(
        f'{path} returns {found.dtype} of shape {found.shape} for examples of'
        f' shape {examples.shape}, not logits. Do not use this file.'
      )
    if not np.isfinite(found).all():
      raise InvalidError(
        f'{path} returns logits that are not finite. Copy the file again.'
      )
    return found

  end = weakref.finalize(logits, _end, process, log)
  with _calling_on_error(end):
    opened = answer('opening it', SECONDS_TO_OPEN)
  shape, classes = tuple(opened['shape']), tuple(opened['classes'])
  return Artefact(logits, shape, classes, opened['resize'])


@contextlib.contextmanager
def _calling_on_error(function: Callable[[], object]) -> Iterator[None]:
  """Calls a function if the context ends with an error, also with Ctrl-C."""
  try:
    yield
  except BaseException:
    function()
    raise


def _seconds_for(count: int) -> int:
  """Returns the limit in seconds for the logits of `count` examples."""
  return SECONDS_PER_BATCH * max(1, math.ceil(count / BATCH))


def _cause(process: subprocess.Popen[bytes], log: IO[str]) -> str:
  """Returns why there is no answer; '' if the process took too long.

  It is the signal that ended the process, or the end of the log.
  """
  try:
    status = process.wait(_SECONDS_TO_END)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
    return 'its answer cannot be read'
  if status == -signal.SIGALRM:
    return ''
  if status < 0:
    return signal.strsignal(-status) or f'signal {-status}'
  log.seek(0)
  lines = log.read().strip().splitlines()
  return lines[-1][:200] if lines else f'exit status {status}'


def _end(process: subprocess.Popen[bytes], log: IO[str]) -> None:
  """Ends a process, which exits at the end of its input."""
  assert process.stdin
  assert process.stdout
  with contextlib.suppress(BrokenPipeError):
    process.stdin.close()
  process.stdout.close()
  try:
    process.wait(_SECONDS_TO_END)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
  log.close()


def _send(stream: IO[bytes], **message: Any) -> None:
  """Writes a message of JSON values and, as `array`, a NumPy array."""
  content = io.BytesIO()
  if 'array' in message:
    np.save(content, message['array'], allow_pickle=False)
    message['array'] = len(content.getvalue())
  stream.write(json.dumps(message).encode() + b'\n' + content.getvalue())
  stream.flush()


def _receive(stream: IO[bytes]) -> dict[str, Any] | None:
  """Reads what `_send` wrote; returns None if the stream ends before."""
  try:
    message: dict[str, Any] = json.loads(stream.readline())
    if 'array' in message:
      content = io.BytesIO(stream.read(message['array']))
      message['array'] = np.load(content, allow_pickle=False)
  except (ValueError, EOFError):
    return None
  return message


def _end_with_parent() -> None:
  """Makes this process end soon after the process that started it.

  Running programs do not stop the thread that does it. A parser can stop that
  thread until `SECONDS_TO_OPEN` are over.
  """
  parent = os.getppid()

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(_SECONDS_TO_NOTICE)
    os._exit(1)  # Another thread may be in an endless program.

  threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
  """Ends this process, whatever it is doing, if the context lasts longer."""
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)


def main(arguments: list[str]) -> None:
  """Opens an artefact and answers until the input ends."""
  path, *options = arguments
  _end_with_parent()
  answers, requests = os.fdopen(os.dup(1), 'wb'), os.fdopen(os.dup(0), 'rb')
  # What libraries print must not appear among the answers.
  os.dup2(2, 1)
  try:
    with _limit(SECONDS_TO_OPEN):
      network = open_here(pathlib.Path(path), exact=_EXACT in options)
    _send(
      answers,
      shape=network.shape,
      classes=network.classes,
      resize=network.resize,
    )
    while request := _receive(requests):
      with _limit(_seconds_for(len(request['array']))):
        found = network.logits(request['array'])
      _send(answers, array=found)
  except UserError as error:
    is_missing = isinstance(error, MissingError)
    _send(answers, kind='missing' if is_missing else 'invalid', text=str(error))


if __name__ == '__main__':
  main(sys.argv[1:])
