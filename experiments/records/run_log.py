"""Writes and reads the log of a run, metrics.jsonl, and TensorBoard events.

The first line of metrics.jsonl is the header: the whole configuration, the
device, the versions and the commit. Each further line is the record of an
epoch. Every line is a JSON object; a number that is not finite is null.

A run appends the record of an epoch before it saves the checkpoint that counts
the epoch as done. `start_log` drops records that are newer than the checkpoint
and raises an error if records are older than it.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments.build.fingerprint import without_places
from experiments.build.schema import KEYS
from experiments.common import files, processes
from experiments.common.errors import InvalidError
from mq_jax.files import write_atomic

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'mq_jax', 'numpy')
_T = TypeVar('_T')


def describe_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the header of a run's log.

  Args:
    config: The whole configuration: nested mappings, lists and scalars.

  Returns:
    A JSON object: date (UTC, ISO 8601), config, device (kind, platform,
    count), processes if there are several, host_cpus, versions, commit and
    dirty. `dirty` is true if `mq_jax` or `experiments` differ from the commit.
    Both are None if the code does not run from a git checkout.
  """
  devices = jax.devices()
  versions = {name: _version(name) for name in PACKAGES}
  now = datetime.datetime.now(datetime.UTC)
  return {
    'date': now.isoformat(timespec='seconds'),
    'config': _plain(config, 'config'),
    'device': {
      'kind': devices[0].device_kind,
      'platform': devices[0].platform,
      'count': len(devices),
    },
    **({'processes': jax.process_count()} if processes.are_several() else {}),
    'host_cpus': os.cpu_count(),
    'versions': {'python': platform.python_version(), **versions},
    **_source(Path(__file__).resolve().parents[2]),
  }


def start_log(
  path: str | os.PathLike[str],
  header: Mapping[str, Any],
  epochs_done: int | None,
) -> None:
  """Starts a log, or truncates an existing one to the restored checkpoint.

  A resumed run keeps the first header and the records of the first
  `epochs_done` epochs. Later records, and a last line that is cut short, are
  removed. A run without a checkpoint begins again, with the new header. The
  file is replaced atomically: a killed process leaves either the old file or
  the new one.

  Args:
    path: Path of the file. Its folder is created if missing.
    header: Header from `describe_run`.
    epochs_done: Number of complete epochs in the checkpoint; None without one.

  Raises:
    InvalidError: If the file belongs to another configuration, or has no record
      of the last epoch of the checkpoint.
  """
  path = Path(path)
  first = _plain(header, 'header')
  kept: list[dict[str, Any]] = []
  if path.exists():
    config = first['config']
    old, records = read_log(path)
    check_same_config(path, old, config)
    if epochs_done is not None:
      first = old
      kept = [r for r in records if 0 < r['epoch'] <= epochs_done]
  if epochs_done and (not kept or kept[-1]['epoch'] != epochs_done):
    raise InvalidError(
      f'{path} has no record of epoch {epochs_done}, the last epoch of the'
      ' checkpoint. Restore the file of that run, or use another --workdir.'
    )
  write_atomic(path, to_lines([first, *kept]))


def check_resumable(path: str | os.PathLike[str]) -> None:
  """Raises `InvalidError` if a log without a checkpoint has several epochs."""
  _, records = read_log(path)
  # The process may be killed after the first record, before its checkpoint.
  if len(records) > 1:
    raise InvalidError(
      f'{path} has {len(records)} epochs, but there is no checkpoint to resume'
      ' from: put the checkpoints of that run back, or use another --workdir.'
    )


def append(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
  """Appends the record of an epoch; it is on disk when the function returns.

  Args:
    path: Path of a log that `start_log` started.
    record: At least epoch (from 1; 0 if nothing is trained), step, train_loss,
      test_loss, test_accuracy (percent) and seconds. Values may be NumPy and
      JAX scalars.

  Raises:
    TypeError: If JSON cannot represent a value.
  """
  files.append(path, to_lines([_plain(record, 'record')]))


def read_log(
  path: str | os.PathLike[str], *, ended: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Reads the log of a run, which may be in progress or killed.

  Args:
    path: Path of the log.
    ended: Refuse a last line that is cut short. By default it is omitted.

  Returns:
    The header, and the records in their order.

  Raises:
    InvalidError: If the file is not the log of a run, or an epoch is missing.
  """
  lines = Path(path).read_bytes().splitlines()
  objects: list[dict[str, Any]] = []
  for number, line in enumerate(lines, start=1):
    try:
      entry = json.loads(line)
    except (ValueError, RecursionError) as error:
      # A JSON object that is cut short is not JSON, so a last line that can be
      # read is complete even without its newline.
      if 1 < number == len(lines) and not ended:
        break
      raise InvalidError(
        f'Line {number} of {path} is not JSON ({error}). Correct that line, or'
        ' use another --workdir.'
      ) from error
    key, kind = ('config', dict) if number == 1 else ('epoch', int)
    if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
      raise InvalidError(
        f'Line {number} of {path} has no {key!r}, so the file is not the log of'
        ' a run. Use another --workdir.'
      )
    if number > 2 and entry['epoch'] != objects[-1]['epoch'] + 1:
      raise InvalidError(
        f'Line {number} of {path} is epoch {entry["epoch"]}, but the line above'
        f' is epoch {objects[-1]["epoch"]}. Restore the file from a copy, or'
        ' use another --workdir.'
      )
    objects.append(entry)
  if not objects:
    raise InvalidError(f'{path} is empty. Delete it or use another --workdir.')
  return objects[0], objects[1:]


def last_epochs(items: Sequence[_T], count: int = 0) -> Sequence[_T]:
  """Returns the epochs whose mean is the result of a run.

  Args:
    items: Sequence over all epochs of the run.
    count: `config.last_epochs`, which may exceed the epochs that were run; 0
      for the last tenth. At least one item is returned.
  """
  return items[-max(1, count or len(items) // 10) :]


def check_same_data(
  folder: str | os.PathLike[str],
  header: Mapping[str, Any],
  config: Mapping[str, Any],
  digest: str,
) -> None:
  """Raises an error if a run started with other data.

  Args:
    folder: Folder of the run.
    header: Header of its log.
    config: The configuration now.
    digest: Digest of its data; empty if it is not known.

  Raises:
    InvalidError: If the log has another digest.
  """
  logged = header.get('start', {}).get('data')
  if digest and logged and logged != digest:
    place = 'data' if config['dataset'] == 'text' else 'data_dir'
    what = f'config.{place}={config[place]!r}'
    if place == 'data' and not config[place]:
      what = f'The documentation of mq_jax ({what})'
    raise InvalidError(
      f'{what} has other contents than when the run in {folder} started. Use'
      ' the data of the run, or another --workdir.'
    )


def check_same_config(
  path: str | os.PathLike[str],
  header: Mapping[str, Any],
  config: Mapping[str, Any],
) -> None:
  """Raises an error if a log belongs to another configuration.

  Args:
    path: Path of the log.
    header: Header of the log.
    config: The whole configuration, as for `describe_run`.

  Raises:
    InvalidError: If the two differ; the message lists the keys. Files and
      folders may have moved (`fingerprint.without_places`). A key that is newer
      than the log had its default in that run.
  """
  old, new = (
    _flat(without_places(entry))
    for entry in (header['config'], _plain(config, 'config'))
  )
  defaults = _flat({name: key.default for name, key in KEYS.items()})
  differ = [
    f'  {key}: {old.get(key, "absent")} in the log,'
    f' {new.get(key, "absent")} now'
    for key in dict.fromkeys([*old, *new])
    if old.get(key, defaults.get(key)) != new.get(key)
  ]
  if differ:
    raise InvalidError(
      f'{path} belongs to a run with another configuration:\n'
      + '\n'.join(differ)
      + '\nUse another --workdir, or the configuration of that run.'
    )


def open_scalars(directory: str | os.PathLike[str], epochs_done: int) -> Any:
  """Opens event files of TensorBoard in a folder.

  Args:
    directory: Path of the folder.
    epochs_done: Number of complete epochs, as in `start_log`. TensorBoard hides
      later epochs that an earlier process wrote.

  Returns:
    The writer of an event file. The caller closes it.
  """
  # Imported here, because only training needs it. `SummaryWriter` writes in a
  # thread: on a full disk the thread ends, and the run then waits for it.
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto import event_pb2

  Path(directory).mkdir(parents=True, exist_ok=True)
  writer = EventsWriter(str(Path(directory, 'events')))
  status = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  writer.write_event(
    event_pb2.Event(
      wall_time=time.time(), step=epochs_done + 1, session_log=status
    )
  )
  writer.flush()
  return writer


def write_scalars(writer: Any, record: Mapping[str, Any]) -> None:
  """Writes the numbers of the record of an epoch, and flushes the file."""
  from tensorboardX import summary
  from tensorboardX.proto import event_pb2

  for name, value in _plain(record, 'record').items():
    if name != 'epoch' and isinstance(value, int | float):
      writer.write_event(
        event_pb2.Event(
          wall_time=time.time(),
          step=record['epoch'],
          summary=summary.scalar(name, value),
        )
      )
  writer.flush()


def _plain(value: Any, name: str) -> Any:
  """Returns a value that JSON can represent; errors call the value `name`."""
  if hasattr(value, 'tolist'):  # NumPy's and JAX's scalars and arrays.
    value = value.tolist()
  if isinstance(value, Mapping):
    return {str(k): _plain(v, f'{name}.{k}') for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v, f'{name}[{i}]') for i, v in enumerate(value)]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if value is None or isinstance(value, bool | int | str):
    return value
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(
    f'{name} is {value!r}, a {type(value).__name__}, which JSON cannot'
    ' represent. Use a number, a string, a list or a dict.'
  )


def to_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
  """Returns JSON objects, one per line."""
  lines = (json.dumps(entry, allow_nan=False) + '\n' for entry in entries)
  return ''.join(lines).encode()


def _flat(value: Any, key: str = '') -> dict[str, str]:
  """Returns the leaves of a nested configuration as JSON, by dotted key."""
  if not isinstance(value, dict) or not value:
    return {key: json.dumps(value)}
  return {
    name: leaf
    for k, v in value.items()
    for name, leaf in _flat(v, f'{key}.{k}' if key else k).items()
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _source(root: Path) -> dict[str, Any]:
  """Returns the commit of a checkout, and True if its code was changed."""
  unknown = {'commit': None, 'dirty': None}
  # A git hook sets these variables, which name another repository.
  misleading = ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE')
  env = {k: v for k, v in os.environ.items() if k not in misleading}

  def git(*args: str) -> str:
    command = ['git', '-C', str(root), *args]
    return subprocess.check_output(
      command, stderr=subprocess.DEVNULL, text=True, env=env
    ).strip()

  try:
    # An installed copy may be inside another repository.
    if not root.samefile(git('rev-parse', '--show-toplevel')):
      return unknown
    changed = git('status', '--porcelain', '--', 'mq_jax', 'experiments')
    return {'commit': git('rev-parse', 'HEAD'), 'dirty': bool(changed)}
  except (OSError, subprocess.CalledProcessError):
    return unknown
