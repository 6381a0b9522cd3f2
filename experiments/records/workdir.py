"""The folder of a run: names of its files, and its lock."""

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO, Any

from ml_collections import ConfigDict

from experiments.build.schema import recorded_config
from experiments.common import files
from experiments.common.errors import BusyError, InvalidError, MissingError
from experiments.records import run_log

LOG = 'metrics.jsonl'  # The source of truth.
CHECKPOINTS = 'checkpoints'
SCALARS = 'tensorboard'
BASE_RUN = 'pretrain'  # The run that makes the base model.
LOCK = 'lock'  # Exists while a process works in the folder.

# Some network file systems have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

PathLike = str | pathlib.Path


@contextlib.contextmanager
def lock(workdir: PathLike) -> Iterator[None]:
  """Keeps other processes out of the folder of a run while the context lasts.

  The folder is created if missing, and removed at the end if it is new and
  empty. Incomplete files of killed processes are removed.

  The operating system drops the lock when the process ends, however it ends;
  the file may then remain, and locks nothing.

  Args:
    workdir: Folder of the run.

  Raises:
    BusyError: If another process has the folder; the message names it.
    InvalidError: If `workdir` is a file.
  """
  folder = pathlib.Path(workdir)
  is_new = not folder.exists()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise InvalidError(
      f'{error.filename} is a file, not a folder. Use another --workdir.'
    ) from error
  try:
    with _open_lock(folder) as file:
      try:
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
        files.remove_leftovers(folder, mine=True)
        yield
      finally:
        (folder / LOCK).unlink(missing_ok=True)
  finally:
    if is_new:
      with contextlib.suppress(OSError):  # It is not empty.
        folder.rmdir()


def _open_lock(folder: pathlib.Path) -> IO[str]:
  """Returns the locked file of a folder."""
  path = folder / LOCK
  while True:
    file = path.open('a+', encoding='utf-8')
    try:
      is_mine = files.try_lock(file)
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      print(
        f'{folder} cannot be locked ({error.strerror}): make sure that no other'
        ' process uses it.',
        flush=True,
      )
      return file
    if not is_mine:
      file.seek(0)
      with file:
        holder = file.read() or 'another process'
      raise BusyError(
        f'{folder} is in use by {holder}. Wait until that process has ended, or'
        ' use another --workdir.'
      )
    # The last holder may have removed the file since it was opened. The lock of
    # a removed file keeps nobody out.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file
    file.close()


def model_path(
  workdir: PathLike,
  config: ConfigDict,
  seed: int | None = None,
  kind: str = '',
) -> pathlib.Path:
  """Returns the path of the model file of one trial.

  Args:
    workdir: Folder of the run.
    config: Configuration of the run.
    seed: Seed of the trial; the first trial by default.
    kind: Form of the weights, such as 'trained' or 'folded'. By default the
      form that the run ends with: 'quantized', or 'model' in full precision.
  """
  kind = kind or ('model' if config.quantizer == 'none' else 'quantized')
  if config.trials > 1:
    kind += f'-seed{config.seed if seed is None else seed}'
  return pathlib.Path(workdir) / f'{kind}.safetensors'


def is_complete(workdir: PathLike, config: ConfigDict) -> bool:
  """Returns True if the run in a folder has reached its last epoch."""
  log = pathlib.Path(workdir) / LOG
  if not (log.exists() and model_path(workdir, config).exists()):
    return False
  _, records = run_log.read_log(log)
  return bool(records) and records[-1]['epoch'] == config.epochs


def read_quantized_run(
  workdir: PathLike,
) -> tuple[ConfigDict, dict[str, Any], pathlib.Path]:
  """Looks up a complete run of quantized weights.

  Args:
    workdir: Folder of the run.

  Returns:
    The configuration, the header of the log, and the path of the first trial's
    quantized network.

  Raises:
    MissingError: If there is no complete run of quantized weights.
  """
  log = pathlib.Path(workdir) / LOG
  if not log.exists():
    raise MissingError(f'{log} is missing: {workdir} contains no run.')
  header = run_log.read_log(log)[0]
  config = recorded_config(header['config'], log)
  path = model_path(workdir, config)
  if config.quantizer == 'none' or not path.exists():
    raise MissingError(
      f'{path} is missing: the run must quantize weights and be complete.'
    )
  return config, header, path
