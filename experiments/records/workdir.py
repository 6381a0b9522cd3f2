"""Names of the files and folders in the folder of a run."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from experiments.build.schema import recorded_config
from experiments.common.errors import MissingError
from experiments.records import run_log

LOG = 'metrics.jsonl'  # The source of truth.
CHECKPOINTS = 'checkpoints'
SCALARS = 'tensorboard'
BASE_RUN = 'pretrain'  # The run that makes the base model.

PathLike = str | pathlib.Path


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
