"""What a run leaves: its networks, one file each."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

import mq_jax
from experiments.build import methods
from experiments.common import parallel as trials
from experiments.records import model_file
from experiments.training.steps import Loop


def model_name(
  config: ConfigDict, seed: int | None = None, kind: str = ''
) -> str:
  """Of one trial's file; without a seed, of the first trial's."""
  kind = kind or ('model' if config.quantizer == 'none' else 'quantized')
  if config.trials > 1:
    kind += f'-seed{config.seed if seed is None else seed}'
  return f'{kind}.safetensors'


def activations_of(config: ConfigDict) -> str:
  """Name and bits, by which numbers that activations train are told apart."""
  return f'{config.activation_quantizer} {config.activation_bits}'


def save_models(
  config: ConfigDict,
  workdir: pathlib.Path,
  loop: Loop,
  state: mq_jax.State,
  record: dict[str, Any],
  num_classes: int,
) -> None:
  """Writes `quantized.safetensors`, or `model.safetensors`, of each trial.

  Where the loss saw other weights than the quantized ones, these are written
  beside, as `trained.safetensors`: what other methods can quantize.

  Args:
    config: A checked configuration.
    workdir: Folder of the run.
    loop: The compiled parts.
    state: The last one, with a leading axis of trials.
    record: Of the last epoch, whose accuracies the files are labelled with.
    num_classes: Of the data.
  """
  metadata = {
    'network': config.network,
    'dataset': config.dataset,
    'num_classes': str(num_classes),
    'activations': activations_of(config),
  }
  for trial, seed in reversed(list(enumerate(loop.seeds))):
    own = trials.pick(state, trial)
    measured = record['trials'][trial] if 'trials' in record else record
    if methods.is_relaxed(config):
      model_file.save_model(
        workdir / model_name(config, seed, 'trained'),
        loop.train.forward_params(own),
        own.model_state,
        metadata | {'accuracy': f'{measured["relaxed_accuracy"]:.2f}'},
      )
    params = loop.train.quantized(own)
    # The first trial's last: it is by that file that a run has finished.
    model_file.save_model(
      workdir / model_name(config, seed),
      params,
      loop.recalibrate(params, own.model_state),
      metadata | {'accuracy': f'{measured["test_accuracy"]:.2f}'},
    )
