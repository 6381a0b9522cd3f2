"""The log of a run: metrics.jsonl, and TensorBoard beside it if asked for.

metrics.jsonl is the source of truth. Its first line is the header: the whole
config, the device, the versions and the commit. Each further line is one epoch.
Every line is one JSON object; a number that is not finite is written as null.

Append an epoch's record before saving the checkpoint that counts the epoch as
done: `open_log` drops the records the checkpoint does not know of, and refuses
a checkpoint whose records are not there.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.build.fingerprint import without_places
from experiments.common.errors import InvalidError

REQUIRED = (
  'epoch',
  'step',
  'train_loss',
  'test_loss',
  'test_accuracy',
  'seconds',
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'mq_jax', 'numpy')


class Log(NamedTuple):
  """An open log.

  Attributes:
    path: the file.
    header: its first line.
  """

  path: Path
  header: dict[str, Any]


def describe_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """The header of a run's log.

  Args:
    config: the whole configuration; nested mappings, lists and scalars.

  Returns:
    A JSON object: date (UTC, ISO 8601), config, device (kind, platform,
    count), host_cpus, versions, commit and dirty. The last two say which
    commit the source checkout is at and whether `mq_jax` or `experiments`
    differ from it; None where the code does not run from a git checkout.
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
    'host_cpus': os.cpu_count(),
    'versions': {'python': platform.python_version(), **versions},
    **_source(Path(__file__).resolve().parents[2]),
  }


def open_log(
  path: str | os.PathLike[str], header: Mapping[str, Any], epochs_done: int
) -> Log:
  """Starts a log, or makes an existing one fit the checkpoint resumed from.

  A resumed run keeps the first header and the records of the first
  `epochs_done` epochs. Later ones, and a last line that a kill cut short, go.
  The file is replaced in one step, so a kill leaves the old or the new one.

  Args:
    path: the file; its folder is made.
    header: from `describe_run`.
    epochs_done: the number of whole epochs in the checkpoint, 0 without one.

  Raises:
    ValueError: where the file is of another configuration, or has no record
      of the epoch that the checkpoint ends with.
  """
  path = Path(path)
  first = _plain(header, 'header')
  kept: list[dict[str, Any]] = []
  if path.exists():
    check_same_config(path, first['config'])
    first, records = read_log(path)
    kept = [r for r in records if 0 < r['epoch'] <= epochs_done]
  if epochs_done > 0 and (not kept or kept[-1]['epoch'] != epochs_done):
    raise InvalidError(
      f'{path} has no record of epoch {epochs_done}, which the checkpoint '
      'ends with; put the file of that run back, or use another --workdir'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(path.name + '.new')
  with new.open('w', encoding='utf-8') as file:
    file.writelines(_line(record) for record in [first, *kept])
    _sync(file)
  os.replace(new, path)
  return Log(path, first)


def append(log: Log, record: Mapping[str, Any]) -> None:
  """Adds one epoch's record; it is on disk when this returns.

  Args:
    log: from `open_log`.
    record: at least epoch (from 1; 0 where nothing is trained), step,
      train_loss, test_loss, test_accuracy (percent) and seconds; NumPy and JAX
      scalars are fine.

  Raises:
    ValueError: where one of these is missing.
    TypeError: where a value is none that JSON can hold.
  """
  missing = [name for name in REQUIRED if name not in record]
  if missing:
    raise ValueError(
      f'the record {dict(record)} lacks {", ".join(missing)}; every epoch has '
      f'{", ".join(REQUIRED)}'
    )
  line = _line(_plain(record, 'record'))
  with log.path.open('a', encoding='utf-8') as file:
    file.write(line)
    _sync(file)


def read_log(
  path: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Reads a log, also that of a run which is under way or was killed.

  Returns:
    The header, and the records in their order. A last line that is cut short
    is left out.

  Raises:
    ValueError: where the file is no such log.
  """
  lines = Path(path).read_bytes().splitlines()
  objects: list[dict[str, Any]] = []
  for number, line in enumerate(lines, start=1):
    try:
      entry = json.loads(line)
    except ValueError as error:
      # Cutting bytes off a JSON object never leaves one, so a last line that
      # can be read is whole even if its newline is not there.
      if 1 < number == len(lines):
        break
      raise InvalidError(
        f'line {number} of {path} is not JSON ({error}); a run writes one '
        'object a line, so repair that line or use another --workdir'
      ) from error
    wanted = 'config' if number == 1 else 'epoch'
    if not isinstance(entry, dict) or wanted not in entry:
      raise InvalidError(
        f'line {number} of {path} has no {wanted!r}, so this is not the log of '
        'a run; use another --workdir'
      )
    objects.append(entry)
  if not objects:
    raise InvalidError(f'{path} is empty; delete it or use another --workdir')
  return objects[0], objects[1:]


def last_epochs(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """The last tenth of a run's epochs, at least one; ten of the paper's 100."""
  return list(records[-max(1, len(records) // 10) :])


def check_same_config(
  path: str | os.PathLike[str], config: Mapping[str, Any]
) -> None:
  """Refuses a log of another configuration.

  Args:
    path: the log.
    config: the whole configuration, as for `describe_run`.

  Raises:
    ValueError: with the keys in which the two differ. Files and folders may
      have moved (`fingerprint.without_places`).
  """
  header, _ = read_log(path)
  old, new = (
    _flat(without_places(entry))
    for entry in (header['config'], _plain(config, 'config'))
  )
  differ = [
    f'  {key}: {old.get(key, "absent")} there, {new.get(key, "absent")} now'
    for key in dict.fromkeys([*old, *new])
    if old.get(key) != new.get(key)
  ]
  if differ:
    raise InvalidError(
      f'{path} is of a run with another configuration:\n'
      + '\n'.join(differ)
      + '\nUse another --workdir, or the configuration of that run.'
    )


def open_scalars(directory: str | os.PathLike[str], epochs_done: int) -> Any:
  """Opens TensorBoard's event files in a folder, over epochs.

  Args:
    directory: the folder, best that of metrics.jsonl.
    epochs_done: as in `open_log`: TensorBoard will not show what an earlier
      process wrote of later epochs.

  Returns:
    A `tensorboardX.SummaryWriter`, to `close` in the end.
  """
  # Here, because a run without TensorBoard need not have it.
  import tensorboardX

  return tensorboardX.SummaryWriter(
    str(directory), purge_step=epochs_done + 1, write_to_disk=True
  )


def write_scalars(writer: Any, record: Mapping[str, Any]) -> None:
  """Writes the numbers of one epoch's record, and flushes."""
  for name, value in _plain(record, 'record').items():
    if name != 'epoch' and isinstance(value, int | float):
      writer.add_scalar(name, value, record['epoch'])
  writer.flush()


def _plain(value: Any, name: str) -> Any:
  """The value as JSON can hold it; `name` says where it stands in an error."""
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
    f'{name} is {value!r}, a {type(value).__name__}, which JSON cannot hold; '
    'make it a number, a string, a list or a dict'
  )


def _line(entry: Mapping[str, Any]) -> str:
  return json.dumps(entry, allow_nan=False) + '\n'


def _sync(file: Any) -> None:
  file.flush()
  os.fsync(file.fileno())


def _flat(value: Any, key: str = '') -> dict[str, str]:
  """The leaves of a nested config as JSON, by dotted key."""
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
  """The commit of the checkout at `root`, and whether its code is changed."""
  none = {'commit': None, 'dirty': None}
  # A git hook sets these, and they would turn git to another repository.
  astray = ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE')
  env = {k: v for k, v in os.environ.items() if k not in astray}

  def git(*args: str) -> str:
    command = ['git', '-C', str(root), *args]
    done = subprocess.run(
      command, capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.strip()

  try:
    # An installed copy may lie inside somebody else's repository.
    if not root.samefile(git('rev-parse', '--show-toplevel')):
      return none
    changed = git('status', '--porcelain', '--', 'mq_jax', 'experiments')
    return {'commit': git('rev-parse', 'HEAD'), 'dirty': bool(changed)}
  except (OSError, subprocess.CalledProcessError):
    return none
