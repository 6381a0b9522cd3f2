"""Makes the executors of submitit, which start jobs here or under SLURM."""

import ast
import importlib.util
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from experiments.common.errors import InvalidError, MissingError

if TYPE_CHECKING:
  import submitit

LOCAL, SLURM = 'local', 'slurm'
# One GPU with its share of a usual node; a run that needs longer is requeued.
SLURM_DEFAULTS: dict[str, Any] = {
  'timeout_min': 240,
  'gpus_per_node': 1,
  'cpus_per_task': 8,
  'mem_gb': 32,
}
# SLURM's limits protect a shared cluster. On one's own machine a run takes as
# long as it takes: a year.
LOCAL_DEFAULTS: dict[str, Any] = {
  'timeout_min': 365 * 24 * 60,
  'gpus_per_node': 1,
}
# A run is one process on one machine, and other flags set the rest.
_FIXED = {
  'nodes': 'a run of a study is one process',
  'tasks_per_node': 'a run of a study is one process',
  'slurm_nodes': 'a run of a study is one process',
  'slurm_ntasks_per_node': 'a run of a study is one process',
  'slurm_array_parallelism': 'use --launch_jobs',
  'slurm_dependency': 'the study sets it, so that base models come first',
}
_LONGEST_WARNING = 300  # Seconds.


def default_text() -> str:
  """Returns the defaults on SLURM, as `--launch_params` takes them."""
  return ','.join(f'{name}={value}' for name, value in SLURM_DEFAULTS.items())


def check_submitit() -> None:
  """Checks that submitit is installed.

  Raises:
    MissingError: If it is missing.
  """
  if importlib.util.find_spec('submitit') is None:
    raise MissingError(
      "--launch needs submitit: pip install -e '.[experiments,cluster]' in the"
      ' folder of setup.cfg.'
    )


def parse(text: str) -> dict[str, Any]:
  """Returns the parameters in a text such as 'timeout_min=240,mem_gb=32'.

  A value may contain commas, as in slurm_exclude=n1,n2.

  Raises:
    InvalidError: If a part has no name or no value, or the text has a name
      twice, or a name that `--launch_params` cannot set.
  """
  parameters: dict[str, Any] = {}
  for part in re.split(r',(?=\s*\w+\s*=)', text) if text else []:
    name, equals, value = (piece.strip() for piece in part.partition('='))
    if not (name and equals and value):
      raise InvalidError(
        f'--launch_params has the part {part!r}. Each part must be NAME=VALUE,'
        ' as in timeout_min=240,slurm_partition=gpu.'
      )
    if name in parameters:
      raise InvalidError(f'--launch_params has {name} twice.')
    if name in _FIXED:
      raise InvalidError(
        f'--launch_params cannot set {name}: {_FIXED[name]}. Leave it out.'
      )
    try:
      parameters[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      parameters[name] = value
  return parameters


def make_executor(
  kind: str,
  logs: pathlib.Path,
  parameters: dict[str, Any],
  *,
  jobs: int,
  name: str,
  after: tuple[str, ...] = (),
  gpus: tuple[int, ...] = (),
) -> 'submitit.Executor':
  """Makes the executor that submits the jobs of a study.

  Args:
    kind: LOCAL or SLURM.
    logs: Folder of the logs.
    parameters: Result of `parse`, which replaces defaults. A value of 0
      leaves out the request to SLURM.
    jobs: Number of jobs of one submission that SLURM runs at a time.
    name: Name of the jobs.
    after: Jobs that must have ended well before SLURM starts these jobs.
    gpus: Numbers of the GPUs of a LOCAL job.

  Raises:
    InvalidError: If submitit does not know a parameter, or refuses its value.
    MissingError: If SLURM is not installed.
  """
  import submitit

  defaults = SLURM_DEFAULTS if kind == SLURM else LOCAL_DEFAULTS
  chosen = {'name': name, 'stderr_to_stdout': True, **defaults, **parameters}
  if kind == SLURM:
    more: dict[str, Any] = {'requeue': True, 'kill-on-invalid-dep': 'yes'}
    if after:
      more['dependency'] = 'afterok:' + ':'.join(after)
    more |= chosen.pop('slurm_additional_parameters', {})
    minutes = chosen['timeout_min']
    if isinstance(minutes, int):
      # The run has this long to save before the time limit.
      chosen.setdefault(
        # With 0 minutes, the limit is that of the partition.
        'slurm_signal_delay_s',
        min(_LONGEST_WARNING, 15 * minutes or _LONGEST_WARNING),
      )
    chosen |= {
      'slurm_array_parallelism': jobs,
      'slurm_additional_parameters': more,
    }
    for key in SLURM_DEFAULTS:
      chosen[key] = chosen[key] or None
  try:
    executor: submitit.Executor = submitit.AutoExecutor(logs, cluster=kind)
    executor.update_parameters(**chosen)
    if kind == LOCAL:
      checked = executor.parameters
      executor = submitit.LocalExecutor(logs)
      executor.update_parameters(**checked | {'visible_gpus': gpus})
  except RuntimeError as error:
    raise MissingError(
      f'--launch={SLURM} needs the commands of SLURM, such as sbatch and srun:'
      ' call it on a machine of the cluster, or use --launch=local.'
    ) from error
  except (NameError, AssertionError, ValueError, TypeError) as error:
    reason = str(error).split('\n')[0]
    raise InvalidError(f'--launch_params is not valid: {reason}') from error
  return executor


def slot_gpus(
  parameters: dict[str, Any], jobs: int, slot: int
) -> tuple[int, ...]:
  """Returns the GPUs of this machine that belong to one of the jobs at a time.

  Args:
    parameters: Result of `parse`.
    jobs: Number of jobs at a time.
    slot: Number of the job among them, from 0.

  Raises:
    InvalidError: If CUDA_VISIBLE_DEVICES has names instead of numbers, or there
      are fewer GPUs than the jobs need.
  """
  default = LOCAL_DEFAULTS['gpus_per_node']
  count = parameters.get('gpus_per_node', default)
  if not isinstance(count, int):
    return ()  # submitit refuses the value.
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is None:
    # A machine without GPUs has none of these files.
    available = len(list(pathlib.Path('/dev').glob('nvidia[0-9]*')))
    numbers = list(range(available or count * jobs))
  else:
    texts = [text.strip() for text in visible.split(',') if text.strip()]
    if not all(text.isdecimal() for text in texts):
      raise InvalidError(
        f'CUDA_VISIBLE_DEVICES={visible} must have the numbers of GPUs, from'
        ' which --launch=local chooses those of a job.'
      )
    numbers = [int(text) for text in texts]
    if not numbers:
      return ()  # All GPUs are hidden.
  if len(numbers) < count * jobs:
    raise InvalidError(
      f'--launch_jobs={jobs} with {count} GPUs per job needs more than the'
      f' {len(numbers)} GPUs that there are. Use fewer jobs.'
    )
  return tuple(numbers[slot * count : (slot + 1) * count])
