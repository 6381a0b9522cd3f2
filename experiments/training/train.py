"""Trains and evaluates one configuration; resumes where it was stopped."""

import contextlib
import pathlib
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments.build import check, train_step
from experiments.common import parallel as sharding
from experiments.common import parallel as trials
from experiments.common.errors import InvalidError
from experiments.data import datasets
from experiments.records import checkpoints, final, model_file, run_log
from experiments.training import post_training
from experiments.training.evaluation import make_evaluate
from experiments.training.initial import first_weights
from experiments.training.loop import (
  Outputs,
  Progress,
  Saved,
  factor,
  means,
  never,
  new_epoch,
  run_epochs,
)
from experiments.training.loop import Stopped as Stopped
from experiments.training.loop import TrainingDiverged as TrainingDiverged
from experiments.training.progress import progress_bar
from experiments.training.steps import Loop, make_loop


class Result(NamedTuple):
  """What a run has to show.

  Attributes:
    base_accuracy: Of the base model, percent; of the run itself where
      it makes one; None where quantized weights began at random.
    last_accuracy: Mean test accuracy of the last tenth of the epochs, percent.
    best_accuracy: Best test accuracy of an epoch, percent.
    seconds_per_epoch: Mean over the epochs.
    model_path: File with the quantized parameters and batch statistics, of the
      first trial; the others' lie beside it.
    records: One dict an epoch, as in run_log.jsonl; with several trials, means
      over them and, under 'trials', those of each.
    trial_accuracies: `last_accuracy` of each trial.
  """

  base_accuracy: float | None
  last_accuracy: float
  best_accuracy: float
  seconds_per_epoch: float
  model_path: pathlib.Path
  records: list[dict[str, Any]]
  trial_accuracies: list[float]


def train_and_evaluate(
  config: ConfigDict,
  workdir: str | pathlib.Path,
  *,
  stop: Callable[[], bool] = never,
  show: Callable[..., Any] = progress_bar,
) -> Result:
  """Runs `config` to its end, from where `workdir` stands.

  Reads no flags. Writes to `workdir`: run_log.jsonl (the source of truth),
  TensorBoard events, checkpoints, and the quantized parameters at the end.

  Args:
    config: As `experiments.configs.resnet20.get_config` returns it.
    workdir: Folder of the run; made if missing. A run of the same
      configuration that stands there goes on from its last checkpoint, and a
      finished one is only read.
    stop: Asked between chunks of steps; True saves and ends the run.
    show: What shows the progress, in the place of `progress.progress_bar`.

  Returns:
    The `Result`.

  Raises:
    ConfigError: If the configuration is not one that a run can have.
    MissingError: If the data or the base model is missing.
    InvalidError: If `workdir` holds another run, or the base model does not
      fit.
    UnreadableError: If the last checkpoint is damaged.
    TrainingDiverged: If a loss or a gradient is not finite.
    KeyboardInterrupt: After Ctrl-C, once all is saved.
    SystemExit: After SIGTERM, once all is saved.
    Stopped: If `stop` said so, once all is saved.
  """
  check.check(config)
  workdir = pathlib.Path(workdir)
  log_path, model_path = _log_path(workdir), workdir / final.model_name(config)
  if log_path.exists():
    run_log.check_same_config(log_path, config.to_dict())
    _check_same_base(log_path, config)
    if _is_finished(config, workdir):
      return _result(*run_log.read_log(log_path), model_path)
  dataset = datasets.load(config.dataset, config.data_dir or None)
  devices = sharding.data_mesh(config.mesh_data).size
  check.check_sizes(config, len(dataset.train_labels), devices)
  dataset = datasets.hold_out(dataset, config.holdout)
  classes = len(dataset.class_names)
  net = train_step.network(config, classes)
  params, batch_stats = first_weights(
    config, net, lambda: _base_model(config, workdir, stop, show)
  )
  loop = make_loop(config, dataset, net, params, batch_stats)

  def base_accuracy() -> float:
    plain = train_step.network(train_step.base_config(config), classes)
    mesh = sharding.data_mesh(config.mesh_data)
    evaluate = make_evaluate(config, dataset, plain, mesh)
    return evaluate(params, batch_stats)[1]

  def first_state() -> mq_jax.State:
    state = loop.start()
    if config.epochs:
      return state
    # The first loss moved the statistics, but here nothing is trained.
    kept = [batch_stats] * config.trials
    state = state._replace(model_state=trials.stack(kept))
    return post_training.with_clips(config, dataset, net, state)

  begin = _Beginning(
    first_state, None if train_step.is_from_scratch(config) else base_accuracy
  )
  state = _train(config, workdir, loop, begin, stop, show)
  header, records = run_log.read_log(log_path)
  final.save_models(config, workdir, loop, state, records[-1], classes)
  return _result(header, records, model_path)


class _Beginning(NamedTuple):
  """What a run that does not go on from a checkpoint begins with.

  Attributes:
    state: `() -> state`.
    base_accuracy: `() -> test accuracy` of the base model, percent; None where
      the weights are random.
  """

  state: Callable[[], mq_jax.State]
  base_accuracy: Callable[[], float] | None


def _check_same_base(log_path: pathlib.Path, config: ConfigDict) -> None:
  """Refuses another base model than the run began with."""
  path = pathlib.Path(config.pretrained).expanduser()
  began = run_log.read_log(log_path)[0].get('start', {}).get('base')
  if began and path.is_file() and model_file.digest(path) != began:
    raise InvalidError(
      f'config.pretrained={config.pretrained!r} is another file than the run in'
      f' {log_path.parent} began with: use that one, or another --workdir.'
    )


def _log_path(workdir: pathlib.Path) -> pathlib.Path:
  return workdir / 'metrics.jsonl'


def _is_finished(config: ConfigDict, workdir: pathlib.Path) -> bool:
  """Whether the run that stands in `workdir` has come to its end."""
  if not (workdir / final.model_name(config)).exists():
    return False
  _, records = run_log.read_log(_log_path(workdir))
  return bool(records) and records[-1]['epoch'] == config.epochs


def _base_model(
  config: ConfigDict,
  workdir: pathlib.Path,
  stop: Callable[[], bool],
  show: Callable[..., Any],
) -> pathlib.Path:
  """The full-precision model in `workdir`, made there if it is not yet."""
  base, folder = train_step.base_config(config), workdir / 'pretrain'
  if not _is_finished(base, folder):
    print(
      f'No config.pretrained: training a full-precision {config.network} on'
      f' {config.dataset} first, {base.epochs} epochs, in {folder}.',
      flush=True,
    )
  path = train_and_evaluate(base, folder, stop=stop, show=show).model_path
  print(f'The base model is {path}.', flush=True)
  return path


def _train(
  config: ConfigDict,
  workdir: pathlib.Path,
  loop: Loop,
  begin: _Beginning,
  stop: Callable[[], bool],
  show: Callable[..., Any],
) -> mq_jax.State:
  """Opens what a run writes to, restores, and runs the epochs that are left."""

  def with_codes(state: mq_jax.State) -> Saved:
    return Saved(state, jax.vmap(loop.train.codes)(state))

  with contextlib.ExitStack() as stack:
    manager = checkpoints.open_manager(workdir / 'checkpoints')
    stack.callback(checkpoints.close, manager)
    start: dict[str, Any] = {}
    restored = checkpoints.restore_latest(
      manager, jax.eval_shape(lambda: with_codes(loop.start()))
    )
    if restored is None:
      saved, progress = with_codes(begin.state()), new_epoch(loop, 0)
      start = _start(loop, saved.state, begin)
      if config.pretrained:
        path = pathlib.Path(config.pretrained).expanduser()
        start['base'] = model_file.digest(path)
    else:
      _check_log_is_there(workdir, manager)
      saved, progress = restored.state, Progress(**restored.progress)
    epochs_done = progress.step // loop.steps_per_epoch
    log = run_log.open_log(
      _log_path(workdir),
      run_log.describe_run(config.to_dict()) | {'start': start},
      epochs_done,
    )
    scalars = run_log.open_scalars(workdir / 'tensorboard', epochs_done)
    stack.callback(scalars.close)
    outputs = Outputs(manager, log, scalars, show)
    return run_epochs(config, loop, saved, progress, outputs, stop)


def _check_log_is_there(
  workdir: pathlib.Path, manager: ocp.CheckpointManager
) -> None:
  """Refuses checkpoints without the log, which says of what run they are."""
  if not _log_path(workdir).exists():
    raise InvalidError(
      f'{manager.directory} has checkpoints, but {_log_path(workdir)} is'
      ' missing: put the file of that run back, or use another --workdir.'
    )


def _start(
  loop: Loop, state: mq_jax.State, begin: _Beginning
) -> dict[str, Any]:
  """What is measured before the first step."""
  looks = jax.vmap(loop.train.diagnostics)(state)
  each = [factor(trials.pick(looks, i)) for i in range(len(loop.seeds))]
  measured: dict[str, Any] = dict(means(each))
  if len(each) > 1:
    measured['trials'] = each
  if begin.base_accuracy is not None:
    measured['base_accuracy'] = begin.base_accuracy()
  return measured


def _result(
  header: dict[str, Any], records: list[dict[str, Any]], path: pathlib.Path
) -> Result:
  accuracies = [record['test_accuracy'] for record in records]
  is_base = header['config']['quantizer'] == 'none'
  own = accuracies[-1] if is_base else None
  last = [record['test_accuracy'] for record in run_log.last_epochs(records)]
  return Result(
    base_accuracy=header['start'].get('base_accuracy', own),
    last_accuracy=sum(last) / len(last),
    best_accuracy=max(accuracies),
    seconds_per_epoch=sum(r['seconds'] for r in records) / len(records),
    model_path=path,
    records=records,
    trial_accuracies=[
      statistics.fmean(accuracies)
      for accuracies in zip(
        *(
          [trial['test_accuracy'] for trial in record.get('trials', [record])]
          for record in run_log.last_epochs(records)
        ),
        strict=True,
      )
    ],
  )
