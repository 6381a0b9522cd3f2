"""A finished run of quantized weights, for what comes after training."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

import mq_jax
from experiments.build import train_step
from experiments.common.errors import MissingError
from experiments.configs import resnet20
from experiments.data import datasets
from experiments.records import final, model_file, run_log
from mq_jax.models import scale_of
from mq_jax.packing.packed_array import packed_leaves


def read(
  workdir: str | pathlib.Path,
) -> tuple[ConfigDict, dict[str, Any], pathlib.Path]:
  """What a run was, and where its first trial's network is.

  Args:
    workdir: Folder of the run.

  Returns:
    Its configuration, the header of its log, and its quantized network's file.

  Raises:
    MissingError: If there is no finished run of quantized weights.
  """
  workdir = pathlib.Path(workdir)
  log = workdir / 'metrics.jsonl'
  if not log.exists():
    raise MissingError(f'{log} is missing: no run stands in {workdir}.')
  header = run_log.read_log(log)[0]
  config = resnet20.get_config()
  config.update(header['config'])
  path = workdir / final.model_name(config)
  if config.quantizer == 'none' or not path.exists():
    raise MissingError(
      f'{path} is missing: the run has to quantize weights, and to have come to'
      ' its end.'
    )
  return config, header, path


def tested_on(config: ConfigDict) -> datasets.Dataset:
  """The data of a run, its test set that of the run."""
  dataset = datasets.load(config.dataset, config.data_dir or None)
  return datasets.hold_out(dataset, config.holdout)


def scales(model: model_file.ModelFile, config: ConfigDict) -> dict[str, Any]:
  """Path to scale, of the quantized kernels that have one."""
  packed = mq_jax.pack(
    model.params, train_step.rules(config, 1), quantized=True
  )
  found = {
    path: scale_of(mq_jax.codes_and_levels(leaf)[1])
    for path, leaf in packed_leaves(packed.params).items()
  }
  return {path: scale for path, scale in found.items() if scale is not None}
