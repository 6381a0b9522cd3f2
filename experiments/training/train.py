"""Trains and tests one configuration; resumes it where it was stopped."""

import contextlib
import pathlib
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses
from experiments.build.base_model import base_config, is_from_scratch
from experiments.build.check import check
from experiments.build.key import subset
from experiments.build.networks import make_network
from experiments.common import parallel
from experiments.common.errors import InvalidError
from experiments.data.datasets import DATASETS
from experiments.data.pipeline import READS, Pipeline
from experiments.records import checkpoints, model_file, run_log, workdir
from experiments.training.evaluation import make_evaluate
from experiments.training.initial import (
  activation_label,
  initial_state,
  initial_variables,
)
from experiments.training.loop import (
  Outputs,
  Progress,
  Saved,
  factors,
  means,
  never,
  new_epoch,
  run_epochs,
)
from experiments.training.progress import progress_bar
from experiments.training.steps import Steps, make_steps


class Result(NamedTuple):
  """The outcome of a run.

  Attributes:
    base_accuracy: Test accuracy of the base model in percent; of the run itself
      where it makes one; None where quantized weights started at random.
    last_accuracy: Mean test accuracy of the last tenth of the epochs, percent.
    best_accuracy: Best test accuracy of an epoch, percent.
    seconds_per_epoch: Mean over the epochs.
    model_path: File with the quantized parameters and batch statistics of the
      first trial; the files of the others are beside it.
    records: One dict per epoch, as in metrics.jsonl; with several trials, means
      over them, and under 'trials' the records of each.
    trial_accuracies: `last_accuracy` of each trial.
  """

  base_accuracy: float | None
  last_accuracy: float
  best_accuracy: float
  seconds_per_epoch: float
  model_path: pathlib.Path
  records: list[dict[str, Any]]
  trial_accuracies: list[float]


class _Control(NamedTuple):
  """The arguments `stop` and `show` of `train_and_evaluate`."""

  stop: Callable[[], bool]
  show: Callable[..., Any]


class _Start(NamedTuple):
  """The start of a run that has no checkpoint.

  Attributes:
    state: `() -> state`.
    base_accuracy: `() -> test accuracy` of the base model in percent; None
      where the weights are random.
  """

  state: Callable[[], mq_jax.State]
  base_accuracy: Callable[[], float] | None


def train_and_evaluate(
  config: ConfigDict,
  folder: str | pathlib.Path,
  *,
  stop: Callable[[], bool] = never,
  show: Callable[..., Any] = progress_bar,
) -> Result:
  """Runs `config` to its end, from the last checkpoint in the folder.

  Reads no flags. Writes to the folder: metrics.jsonl (the source of truth),
  TensorBoard events, checkpoints, and the quantized parameters at the end.

  Args:
    config: As `experiments.configs.resnet20.get_config` returns it.
    folder: Folder of the run, made if missing. A run of the same configuration
      resumes from its last checkpoint there, and a complete one is only read.
    stop: Called between chunks of steps; True saves and ends the run.
    show: Replacement for `progress.progress_bar`.

  Returns:
    The `Result`.

  Raises:
    ConfigError: If the configuration is not one that a run can have.
    MissingError: If the data or the base model is missing.
    InvalidError: If the folder holds another run, or the base model does not
      fit.
    UnreadableError: If the last checkpoint is damaged.
    TrainingDiverged: If a loss or a gradient is not finite.
    KeyboardInterrupt: After Ctrl-C, once the state is saved.
    SystemExit: After SIGTERM, once the state is saved.
    Stopped: If `stop` returned True, once the state is saved.
  """
  check(config)
  folder, control = pathlib.Path(folder), _Control(stop, show)
  log_path = workdir.log_path(folder)
  if log_path.exists():
    run_log.check_same_config(log_path, config.to_dict())
    _check_same_base(log_path, config)
    if workdir.is_complete(folder, config):
      return _result(config, folder)
  needs_base = not is_from_scratch(config) and not config.pretrained
  base = config.pretrained
  if needs_base:
    # Before the data: the run of the base model loads its own.
    base = str(_base_model(config, folder, control))
  pipeline = make_pipeline(config)
  net = make_network(config, len(pipeline.classes))
  params, batch_stats = initial_variables(
    config, net, DATASETS[config.dataset].image_shape, base
  )
  steps = make_steps(config, pipeline, net, params, batch_stats)

  def base_accuracy() -> float:
    base_net = make_network(base_config(config), len(pipeline.classes))
    losses_of = losses.LOSSES[config.loss]
    evaluate = make_evaluate(pipeline.evaluate, base_net, losses_of)
    return evaluate(params, batch_stats)[1]

  start = _Start(
    lambda: initial_state(config, pipeline, net, steps, batch_stats),
    None if is_from_scratch(config) else base_accuracy,
  )
  state = _train(config, folder, steps, start, control)
  _save_models(config, folder, steps, state, len(pipeline.classes))
  return _result(config, folder)


def make_pipeline(config: ConfigDict) -> Pipeline:
  """Makes the pipeline of the data that a run trains and tests on.

  Raises:
    MissingError: If the data is missing.
    ConfigError: If the batch size does not fit the data or the devices.
    InvalidError: If there are fewer devices than the configuration asks for.
  """
  mesh = parallel.data_mesh(config.mesh_data)
  return DATASETS[config.dataset].pipeline(subset(config, READS), mesh)


def _check_same_base(log_path: pathlib.Path, config: ConfigDict) -> None:
  """Refuses another base model than the run started with."""
  path = pathlib.Path(config.pretrained).expanduser()
  header, _ = run_log.read_log(log_path)
  digest = header.get('start', {}).get('base')
  if digest and path.is_file() and model_file.digest(path) != digest:
    raise InvalidError(
      f'config.pretrained={config.pretrained!r} is another file than the run in'
      f' {log_path.parent} started with: use that file, or another --workdir.'
    )


def _base_model(
  config: ConfigDict, folder: pathlib.Path, control: _Control
) -> pathlib.Path:
  """Returns the base model of a run, trained in the folder if it is not yet."""
  base, base_folder = base_config(config), workdir.base_path(folder)
  if not workdir.is_complete(base_folder, base):
    make_pipeline(base)  # Missing data is an error before any message.
    print(
      f'config.pretrained is empty: training a full-precision {config.network}'
      f' on {config.dataset} first, {base.epochs} epochs, in {base_folder}.',
      flush=True,
    )
  path = train_and_evaluate(base, base_folder, **control._asdict()).model_path
  print(f'The base model is {path}.', flush=True)
  return path


def _train(
  config: ConfigDict,
  folder: pathlib.Path,
  steps: Steps,
  start: _Start,
  control: _Control,
) -> mq_jax.State:
  """Opens the outputs of a run, restores it, and runs the remaining epochs."""
  log_path = workdir.log_path(folder)

  def with_codes(state: mq_jax.State) -> Saved:
    return Saved(state, jax.vmap(steps.train.codes)(state))

  with contextlib.ExitStack() as stack:
    manager = checkpoints.open_manager(workdir.checkpoints_path(folder))
    stack.callback(checkpoints.close, manager)
    measured: dict[str, Any] = {}
    restored = None
    if manager.latest_step() is not None:
      restored = checkpoints.restore_latest(
        manager, jax.eval_shape(with_codes, steps.state_shape())
      )
    if restored is None:
      saved, progress = with_codes(start.state()), new_epoch(steps, 0)
      measured = _measure_start(config, steps, saved.state, start)
    else:
      _check_log_exists(log_path, manager)
      saved, progress = restored.state, Progress(**restored.progress)
    epochs_done = progress.step // steps.steps_per_epoch
    log = run_log.open_log(
      log_path,
      run_log.describe_run(config.to_dict()) | {'start': measured},
      epochs_done,
    )
    scalars = run_log.open_scalars(workdir.scalars_path(folder), epochs_done)
    stack.callback(scalars.close)
    outputs = Outputs(manager, log, scalars, control.show)
    return run_epochs(config, steps, saved, progress, outputs, control.stop)


def _check_log_exists(
  log_path: pathlib.Path, manager: ocp.CheckpointManager
) -> None:
  """Refuses checkpoints without the log, which says what run they are of."""
  if not log_path.exists():
    raise InvalidError(
      f'{manager.directory} has checkpoints, but {log_path} is missing: put the'
      ' log of that run back, or use another --workdir.'
    )


def _measure_start(
  config: ConfigDict, steps: Steps, state: mq_jax.State, start: _Start
) -> dict[str, Any]:
  """Returns what the header of the log says of the state before training."""
  diagnostics = jax.vmap(steps.train.diagnostics)(state)
  by_trial = [
    factors(parallel.pick(diagnostics, i)) for i in range(len(steps.seeds))
  ]
  measured: dict[str, Any] = dict(means(by_trial))
  if len(by_trial) > 1:
    measured['trials'] = by_trial
  if start.base_accuracy is not None:
    measured['base_accuracy'] = start.base_accuracy()
  if config.pretrained:
    path = pathlib.Path(config.pretrained).expanduser()
    measured['base'] = model_file.digest(path)
  return measured


def _save_models(
  config: ConfigDict,
  folder: pathlib.Path,
  steps: Steps,
  state: mq_jax.State,
  num_classes: int,
) -> None:
  """Writes the model file of each trial.

  Where the loss saw other weights than the quantized ones, it writes these too,
  as `trained.safetensors`: other methods can quantize them.
  """
  record = run_log.read_log(workdir.log_path(folder))[1][-1]
  metadata = {
    'network': config.network,
    'dataset': config.dataset,
    'num_classes': str(num_classes),
    'activations': activation_label(config),
  }
  # The first trial comes last: its file marks a run as complete.
  for trial, seed in reversed(list(enumerate(steps.seeds))):
    trial_state = parallel.pick(state, trial)
    measured = record['trials'][trial] if 'trials' in record else record
    if steps.parts.relaxed:
      model_file.save_model(
        workdir.model_path(folder, config, seed, 'trained'),
        steps.train.forward_params(trial_state),
        trial_state.model_state,
        metadata | {'accuracy': f'{measured["relaxed_accuracy"]:.2f}'},
      )
    params = steps.train.quantized(trial_state)
    model_file.save_model(
      workdir.model_path(folder, config, seed),
      params,
      steps.recalibrate(params, trial_state.model_state),
      metadata | {'accuracy': f'{measured["test_accuracy"]:.2f}'},
    )


def _result(config: ConfigDict, folder: pathlib.Path) -> Result:
  """Reads the result of a complete run."""
  header, records = run_log.read_log(workdir.log_path(folder))
  accuracies = [record['test_accuracy'] for record in records]
  last_records = run_log.last_epochs(records)
  by_epoch = [
    [trial['test_accuracy'] for trial in record.get('trials', [record])]
    for record in last_records
  ]
  makes_base = config.quantizer == 'none'
  return Result(
    base_accuracy=header['start'].get(
      'base_accuracy', accuracies[-1] if makes_base else None
    ),
    last_accuracy=statistics.fmean(
      record['test_accuracy'] for record in last_records
    ),
    best_accuracy=max(accuracies),
    seconds_per_epoch=statistics.fmean(r['seconds'] for r in records),
    model_path=workdir.model_path(folder, config),
    records=records,
    trial_accuracies=[
      statistics.fmean(trial) for trial in zip(*by_epoch, strict=True)
    ],
  )
