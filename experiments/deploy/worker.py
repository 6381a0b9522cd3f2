"""Runs an artefact in a separate process, which it may crash.

  python -m experiments.deploy.worker ARTEFACT

reads batches of images from standard input and writes their logits to standard
output. A message is a line of JSON, which may announce an array in the format
of NumPy.
"""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import weakref
from typing import IO, Any

import numpy as np

from experiments.common.errors import InvalidError, MissingError, UserError
from experiments.deploy.artefact import Artefact, open_here

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MODULE = 'experiments.deploy.worker'
_SECONDS_TO_END = 5.0
# Opening takes seconds, most of them for imports. A damaged file can trap the
# parser of jaxlib in an endless loop.
SECONDS_TO_OPEN = 60


def start(path: pathlib.Path) -> Artefact:
  """Opens an artefact in a new process, which ends with the artefact.

  Args:
    path: File that `artefact.open_here` opens.

  Returns:
    The `Artefact`. `logits` raises an InvalidError if the process fails, or if
    the logits are not finite.

  Raises:
    MissingError: If a package that opens the file is missing.
    InvalidError: If the file cannot be opened, or crashes the process.
  """
  log = tempfile.TemporaryFile('w+', errors='replace')  # noqa: SIM115
  process = subprocess.Popen(
    [sys.executable, '-m', _MODULE, path.resolve()],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=log,
  )
  assert process.stdin
  assert process.stdout
  requests, answers = process.stdin, process.stdout

  def answer() -> dict[str, Any]:
    message = _receive(answers)
    if message is None:
      raise InvalidError(
        f'{path} crashed the process that opened it ({_cause(process, log)}).'
        ' Copy the file again, or do not use it.'
      )
    if kind := message.get('kind'):
      raise (MissingError if kind == 'missing' else InvalidError)(
        message['text']
      )
    return message

  def logits(images: np.ndarray) -> np.ndarray:
    # If the process has ended, its answer says why.
    with contextlib.suppress(BrokenPipeError):
      _send(requests, array=images)
    found = answer()['array']
    if found.ndim != 2 or len(found) != len(images) or found.dtype != 'float32':
      raise InvalidError(
        f'{path} returns {found.dtype} of shape {found.shape} for'
        f' {len(images)} images, not logits. Do not use this file.'
      )
    if not np.isfinite(found).all():
      raise InvalidError(
        f'{path} returns logits that are not finite. Copy the file again.'
      )
    return found

  weakref.finalize(logits, _end, process, log)
  opened = answer()
  return Artefact(logits, tuple(opened['shape']), tuple(opened['classes']))


def _cause(process: subprocess.Popen[bytes], log: IO[str]) -> str:
  """Returns why a process has ended: its signal or the end of its log."""
  status = process.wait()
  if status == -signal.SIGALRM:
    return f'opening it took more than {SECONDS_TO_OPEN} seconds'
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


def main(arguments: list[str]) -> None:
  """Opens an artefact and answers until the input ends."""
  (path,) = arguments
  answers, requests = os.fdopen(os.dup(1), 'wb'), os.fdopen(os.dup(0), 'rb')
  # What libraries print must not appear among the answers.
  os.dup2(2, 1)
  try:
    signal.alarm(SECONDS_TO_OPEN)  # Ends the process, whatever it is doing.
    network = open_here(pathlib.Path(path))
    signal.alarm(0)
    _send(answers, shape=network.shape, classes=network.classes)
    while request := _receive(requests):
      _send(answers, array=network.logits(request['array']))
  except UserError as error:
    is_missing = isinstance(error, MissingError)
    _send(answers, kind='missing' if is_missing else 'invalid', text=str(error))


if __name__ == '__main__':
  main(sys.argv[1:])
