"""Trains and tests one configuration; resumes it where it was stopped."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

import mq_jax
from experiments.build import fingerprint, losses
from experiments.build.base_model import base_config, is_from_scratch
from experiments.build.check import check
from experiments.build.key import subset
from experiments.build.networks import make_network
from experiments.common import parallel, processes
from experiments.common.console import counted
from experiments.common.errors import InvalidError
from experiments.data.datasets import DATASETS, data_digest
from experiments.data.pipeline import Pipeline
from experiments.records import checkpoints, model_file, run_log, workdir
from experiments.training.divergence import not_finite
from experiments.training.epoch_record import means
from experiments.training.evaluation import make_evaluate
from experiments.training.initial import (
  first_images,
  fit_to_images,
  initial_variables,
)
from experiments.training.loop import run_epochs
from experiments.training.network_table import describe_network
from experiments.training.position import (
  Position,
  Saved,
  epochs_done,
  start_epoch,
  with_codes,
)
from experiments.training.progress import hidden_bar, progress_bar
from experiments.training.result import Result, read_result
from experiments.training.saving import save_models
from experiments.training.state_memory import available_memory, describe_state
from experiments.training.steps import Steps, make_steps

# On two CPU cores, per kernel: compiling the first state and the step.
COMPILE_SECONDS = 1.0


def train_and_evaluate(
  config: ConfigDict,
  folder: str | pathlib.Path,
  *,
  stop: Callable[[], bool] = lambda: False,
  show: Callable[..., Any] = progress_bar,
  message: str = '',
) -> Result:
  """Runs `config` to its end, from the last checkpoint in the folder.

  Reads no flags. Writes to the folder: metrics.jsonl (the source of truth),
  TensorBoard events, checkpoints, and the quantized parameters at the end.

  Args:
    config: Configuration, as from `experiments.configs.resnet20.get_config`.
    folder: Folder of the run, created if missing. A run of the same
      configuration resumes from its last checkpoint there. The result of a
      complete run is only read.
    stop: Called between chunks of steps; True saves and ends the run.
    show: Replacement for `progress.progress_bar`.
    message: Text to print before training, once its files are found.

  Returns:
    The `Result`.

  Raises:
    ConfigError: If the configuration is invalid.
    BusyError: If another process is working in the folder.
    MissingError: If the data or the base model is missing.
    InvalidError: If the folder contains another run or one on other data, or
      the base model does not fit.
    UnreadableError: If all checkpoints are damaged.
    UnwritableError: If a checkpoint cannot be written.
    TrainingDiverged: If a loss, a gradient, the state or a test loss is not
      finite.
    KeyboardInterrupt: After Ctrl-C, once the state is saved.
    SystemExit: After SIGTERM, once the state is saved.
    Stopped: If `stop` returned True, once the state is saved.
  """
  check(config)
  folder = pathlib.Path(folder)
  processes.check_equal(_by_name(config), 'the same configuration')
  if not processes.is_first():
    show, message = hidden_bar, ''
  # The result of a complete run can be read in a folder without permission to
  # write, and by several processes.
  is_complete = functools.partial(_is_complete, config, folder)
  result = functools.partial(read_result, config, folder)
  if processes.from_first(is_complete):
    return processes.from_first(result)
  with processes.in_first(lambda: workdir.lock(folder)):
    # Another process may have completed the run in the meantime.
    if not processes.from_first(is_complete):
      _run(config, folder, stop, show, message)
  return processes.from_first(result)


def _by_name(config: ConfigDict) -> dict[str, str]:
  """Returns the values that the processes of a run must share."""
  values = fingerprint.without_places(config.to_dict())
  return {f'config.{name}': repr(value) for name, value in values.items()}


def _is_complete(config: ConfigDict, folder: pathlib.Path) -> bool:
  """Returns True if the run is complete; refuses the folder of another run."""
  log_path = folder / workdir.LOG
  if not log_path.exists():
    return False
  header, _ = run_log.read_log(log_path)
  run_log.check_same_config(log_path, header, config.to_dict())
  _check_same_base(folder, header, config)
  run_log.check_same_data(folder, header, config, data_digest(config))
  return workdir.is_complete(folder, config)


def _run(
  config: ConfigDict,
  folder: pathlib.Path,
  stop: Callable[[], bool],
  show: Callable[..., Any],
  message: str,
) -> None:
  """Runs `config` to its end, in a locked folder."""
  base = config.pretrained
  if not base and not is_from_scratch(config):
    # The run of the base model loads its own data, so it comes first.
    base_folder = folder / workdir.BASE_RUN
    epochs = counted(config.pretrain_epochs, 'epoch')
    reason = (
      f'config.pretrained is empty: training a full-precision {config.network}'
      f' on {config.dataset} first, {epochs}, in {base_folder}.'
    )
    result = train_and_evaluate(
      base_config(config),
      base_folder,
      stop=stop,
      show=show,
      message=f'{message}\n{reason}'.strip(),
    )
    message = ''
    base = str(result.model_path)
    if processes.is_first():
      print(f'The base model is {base}.', flush=True)
  pipeline = processes.together(lambda: make_pipeline(config))
  if processes.from_first((folder / workdir.LOG).exists):
    header, _ = processes.from_first(
      lambda: run_log.read_log(folder / workdir.LOG)
    )
    run_log.check_same_data(folder, header, config, pipeline.digest)
  net = make_network(config, len(pipeline.classes))
  initial = processes.together(
    lambda: initial_variables(
      config, net, DATASETS[config.dataset].input_spec(config), base
    )
  )
  if processes.are_several():
    _check_same_files(pipeline, base)
  # Several processes make the images together.
  params, batch_stats = parallel.shared(
    fit_to_images(
      config, net, initial, lambda: first_images(pipeline.calibrate)
    )
  )
  steps = make_steps(config, pipeline, net, params, batch_stats)
  if message:
    print(message, flush=True)

  def start() -> tuple[mq_jax.State, dict[str, Any]]:
    state = steps.start()
    measured = _measure_factors(steps, state)
    # With other activations, these weights are not a full-precision network.
    is_base = not is_from_scratch(config) and initial.is_full_precision
    if is_base and not config.new_head:
      base_net = make_network(base_config(config), len(pipeline.classes))
      losses_of = losses.LOSSES[config.loss]
      evaluate = make_evaluate(pipeline.evaluate, base_net, losses_of)
      scores = evaluate(params, batch_stats)
      del scores['loss']
      measured |= {f'base_{name}': score for name, score in scores.items()}
    if pipeline.digest:
      measured['data'] = pipeline.digest
    if config.pretrained:
      measured['base'] = model_file.digest(config.pretrained)
    return state, measured

  selection = steps.train.selection(params)
  device = jax.devices()[0].device_kind
  shapes = steps.placement.shapes(
    jax.eval_shape(lambda state: with_codes(steps, state), steps.state_shape())
  )
  memory = processes.together(
    lambda: describe_state(config, shapes, available_memory())
  )
  show_run = functools.partial(
    show,
    description=f'{describe_network(config, selection, device)}\n  {memory}',
    epochs=config.epochs,
    waiting=_waiting(
      config, sum(len(s) > 1 for s in selection.shapes.values())
    ),
    device=device,
  )
  state = _train(config, folder, steps, shapes, start, stop, show_run)
  save_models(config, folder, steps, state, len(pipeline.classes))


def _check_same_files(pipeline: Pipeline, base: str) -> None:
  """Refuses other data or another base model than those of process 0."""
  values = {
    'the list of classes': ' '.join(pipeline.classes),
    'the number of steps per epoch': str(pipeline.steps_per_epoch),
    'the number of test images': str(pipeline.evaluate.size),
    'the digest of the data': pipeline.digest,
  }
  if base:
    values[f'the digest of {base}'] = model_file.digest(base)
  processes.check_equal(values, 'the same files')


def make_pipeline(config: ConfigDict) -> Pipeline:
  """Makes the pipeline of the data that a run trains and tests on.

  Raises:
    MissingError: If the data is missing.
    ConfigError: If the batch size does not fit the data or the devices.
    InvalidError: If there are fewer devices than the configuration asks for.
  """
  mesh = parallel.data_mesh(config.mesh_data)
  declared = DATASETS[config.dataset]
  return declared.pipeline(subset(config, declared.reads), mesh)


def _check_same_base(
  folder: pathlib.Path, header: dict[str, Any], config: ConfigDict
) -> None:
  """Refuses another base model than the run started with."""
  path = pathlib.Path(config.pretrained).expanduser()
  digest = header.get('start', {}).get('base')
  if digest and path.is_file() and digest not in model_file.digests(path):
    raise InvalidError(
      f'config.pretrained={config.pretrained!r} is another file than the run in'
      f' {folder} started with: use that file, or another --workdir.'
    )


def _train(
  config: ConfigDict,
  folder: pathlib.Path,
  steps: Steps,
  shapes: Saved,
  start: Callable[[], tuple[mq_jax.State, dict[str, Any]]],
  stop: Callable[[], bool],
  show: Callable[..., Any],
) -> mq_jax.State:
  """Starts or restores a run, and runs the remaining epochs.

  `shapes` are those of a checkpoint. `show` takes the number of steps of the
  run, and the step to start at.
  """
  log_path = folder / workdir.LOG
  with checkpoints.open_manager(folder / workdir.CHECKPOINTS) as manager:
    restored = None
    if processes.from_first(manager.latest_step) is not None:
      restored = checkpoints.restore_latest(
        manager, shapes, check=_check_finite
      )
    has_log = processes.from_first(log_path.exists)
    if restored is not None and not has_log:
      # Only the log has the configuration that the checkpoints belong to.
      raise InvalidError(
        f'{manager.directory} has checkpoints, but {log_path} is missing: put'
        ' the log of that run back, or use another --workdir.'
      )
    if restored is None and has_log:
      processes.from_first(lambda: run_log.check_resumable(log_path))
    position, done = start_epoch(steps, 0), None
    if restored is not None:
      position = Position(**restored.progress)
      done = epochs_done(steps, position)
    total = config.epochs * steps.steps_per_epoch
    with show(total, position.step) as bar:
      if restored is not None:
        bar.log(f'The run resumes from step {position.step} of {total}.')
      measured: dict[str, Any] = {}
      if restored is None:
        state, measured = start()
        saved = with_codes(steps, state)
      else:
        saved = restored.state
      processes.from_first(
        lambda: run_log.start_log(
          log_path,
          run_log.describe_run(config.to_dict()) | {'start': measured},
          done,
        )
      )
      return run_epochs(
        config, folder, steps, saved, position, manager, stop, bar
      )


def _waiting(config: ConfigDict, kernels: int) -> str:
  """Returns what a run does before its first step, for the user."""
  if not config.epochs:
    return 'testing the network'
  text = 'compiling the train step'
  if jax.default_backend() == 'cpu':
    text += f' (about {max(5, round(kernels * COMPILE_SECONDS))} s)'
  return text


def _check_finite(saved: Saved) -> None:
  if path := not_finite(saved.state):
    raise checkpoints.DamagedError(f'its leaf {path} is not finite')


def _measure_factors(steps: Steps, state: mq_jax.State) -> dict[str, Any]:
  """Returns the factors by which the estimators multiply gradients."""
  factors = jax.device_get(jax.vmap(steps.train.diagnostics)(state).factor)
  by_trial = parallel.split(factors, len(steps.seeds))
  measured = dict(means(by_trial))
  if len(by_trial) > 1:
    measured['trials'] = by_trial
  return measured
