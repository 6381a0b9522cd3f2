"""Writes the model files at the end of a run."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

import mq_jax
from experiments.common import parallel, processes
from experiments.records import model_file, run_log, workdir
from experiments.training.initial import activation_label, recorded_options
from experiments.training.steps import Steps


def save_models(
  config: ConfigDict,
  folder: pathlib.Path,
  steps: Steps,
  state: mq_jax.State,
  num_classes: int,
) -> None:
  """Writes the model file of each trial.

  If the loss saw other weights than the quantized ones, the function also
  writes these, as `trained.safetensors`: other methods can quantize them.
  """
  log_path = folder / workdir.LOG
  _, records = processes.from_first(lambda: run_log.read_log(log_path))
  by_trial = records[-1].get('trials', [records[-1]])
  metadata = {
    'network': config.network,
    'dataset': config.dataset,
    'num_classes': str(num_classes),
    'activations': activation_label(config),
  } | recorded_options(config)
  # The first trial comes last: its file marks a run as complete.
  for trial, seed in reversed(list(enumerate(steps.seeds))):
    trial_state, measured = parallel.pick(state, trial), by_trial[trial]
    if steps.relaxed:
      _save_model(
        workdir.model_path(folder, config, seed, 'trained'),
        steps.train.forward_params(trial_state),
        trial_state.model_state,
        metadata | {'accuracy': f'{measured["relaxed_accuracy"]:.2f}'},
      )
    params = steps.train.quantized(trial_state)
    _save_model(
      workdir.model_path(folder, config, seed),
      params,
      steps.recalibrate(params, trial_state.model_state),
      metadata | {'accuracy': f'{measured["test_accuracy"]:.2f}'},
    )


def _save_model(
  path: pathlib.Path, params: Any, batch_stats: Any, metadata: dict[str, str]
) -> None:
  params, batch_stats = jax.tree.map(parallel.host_array, (params, batch_stats))
  processes.from_first(
    lambda: model_file.save_model(path, params, batch_stats, metadata)
  )
