"""The files in the folder of a run, each path in one place."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from experiments.build.schema import recorded_config
from experiments.common.errors import MissingError
from experiments.records import run_log

PathLike = str | pathlib.Path


def log_path(workdir: PathLike) -> pathlib.Path:
  """Returns the path of the log of a run, which is the source of truth."""
  return pathlib.Path(workdir) / 'metrics.jsonl'


def checkpoints_path(workdir: PathLike) -> pathlib.Path:
  """Returns the folder of the checkpoints of a run."""
  return pathlib.Path(workdir) / 'checkpoints'


def scalars_path(workdir: PathLike) -> pathlib.Path:
  """Returns the folder of the TensorBoard events of a run."""
  return pathlib.Path(workdir) / 'tensorboard'


def base_path(workdir: PathLike) -> pathlib.Path:
  """Returns the folder of the run that makes the base model of a run."""
  return pathlib.Path(workdir) / 'pretrain'


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
    seed: Seed of the trial; None: the first trial.
    kind: Form of the weights, such as 'trained' or 'folded'; empty: the form
      that the run ends with, 'quantized', or 'model' in full precision.
  """
  kind = kind or ('model' if config.quantizer == 'none' else 'quantized')
  if config.trials > 1:
    kind += f'-seed{config.seed if seed is None else seed}'
  return pathlib.Path(workdir) / f'{kind}.safetensors'


def is_complete(workdir: PathLike, config: ConfigDict) -> bool:
  """Returns True if the run in a folder has reached its last epoch."""
  if not model_path(workdir, config).exists():
    return False
  _, records = run_log.read_log(log_path(workdir))
  return bool(records) and records[-1]['epoch'] == config.epochs


def read_quantized_run(
  workdir: PathLike,
) -> tuple[ConfigDict, dict[str, Any], pathlib.Path]:
  """Reads what a complete run of quantized weights was.

  Args:
    workdir: Folder of the run.

  Returns:
    The configuration, the header of the log, and the path of the first trial's
    quantized network.

  Raises:
    MissingError: If there is no complete run of quantized weights.
  """
  log = log_path(workdir)
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
