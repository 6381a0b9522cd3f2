"""Trains and evaluates one configuration; resumes where it was stopped."""

import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

import mq_jax
from experiments import (
  build,
  checkpoints,
  data,
  display,
  interrupt,
  metrics,
  model_file,
)
from experiments.loop import Loop, make_loop
from mq_jax.selection import named_leaves

LAST = 10  # epochs whose mean test accuracy the paper reports


class Result(NamedTuple):
  """What a run has to show.

  Attributes:
    full_precision_accuracy: Of the base model, percent.
    last_accuracy: Mean test accuracy of the last 10 epochs, percent.
    best_accuracy: Best test accuracy of an epoch, percent.
    seconds_per_epoch: Mean over the epochs.
    model_path: File with the quantized parameters and batch statistics.
    records: One dict an epoch, as in metrics.jsonl.
  """

  full_precision_accuracy: float
  last_accuracy: float
  best_accuracy: float
  seconds_per_epoch: float
  model_path: pathlib.Path
  records: list[dict[str, Any]]


class TrainingDiverged(RuntimeError):
  """A loss or a gradient was not finite."""


class Saved(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    state: Of the train step.
    codes: Integer codes at the end of the last epoch, by which flips count.
  """

  state: mq_jax.State
  codes: dict[str, jax.Array]


def train_and_evaluate(
  config: ConfigDict, workdir: str | pathlib.Path
) -> Result:
  """Runs `config` to its end, from where `workdir` stands.

  Reads no flags. Writes to `workdir`: metrics.jsonl (the source of truth),
  TensorBoard events, checkpoints, and the quantized parameters at the end.

  Args:
    config: As `experiments.configs.resnet20.get_config` returns it.
    workdir: Folder of the run; made if missing. A run of the same
      configuration that stands there goes on from its last checkpoint.

  Returns:
    The `Result`.

  Raises:
    ConfigError: If the configuration is not one that a run can have.
    FileNotFoundError: If the data or the base model is missing.
    ValueError: If `workdir` holds another run, or the base model does not fit.
    TrainingDiverged: If a loss or a gradient is not finite.
    KeyboardInterrupt: After Ctrl-C, once all is saved.
    SystemExit: After SIGTERM, once all is saved.
  """
  build.check(config)
  workdir = pathlib.Path(workdir)
  dataset = data.load(config.dataset, config.data_dir or None)
  net = build.network(config, len(dataset.class_names))
  params, batch_stats = _base_model(config, workdir, net)
  loop = make_loop(config, dataset, net, params, batch_stats)
  state = loop.start()
  saved = Saved(state, loop.train.codes(state))
  manager = checkpoints.open_manager(workdir / 'checkpoints')
  try:
    restored = checkpoints.restore_latest(manager, saved)
    progress = _NO_PROGRESS
    start = {}
    if restored is not None:
      _, saved, progress = restored
    else:
      _, accuracy = loop.evaluate(params, batch_stats)
      start = {'full_precision_accuracy': accuracy, **_factor(loop, state)}
    log = metrics.open_log(
      workdir / 'metrics.jsonl',
      metrics.describe_run(config.to_dict()) | {'start': start},
      epochs_done=progress['step'] // loop.steps_per_epoch,
    )
    scalars = metrics.open_scalars(
      workdir / 'tensorboard', progress['step'] // loop.steps_per_epoch
    )
    state = _train(config, loop, saved, progress, manager, log, scalars)
    scalars.close()
  finally:
    checkpoints.close(manager)
  header, records = metrics.read_log(workdir / 'metrics.jsonl')
  path = workdir / _model_name(config)
  model_file.save_model(
    path,
    loop.train.quantized(state),
    state.model_state,
    {
      'network': config.network,
      'dataset': config.dataset,
      'num_classes': str(len(dataset.class_names)),
      'accuracy': f'{records[-1]["test_accuracy"]:.2f}',
    },
  )
  return _result(header, records, path)


def _model_name(config: ConfigDict) -> str:
  kind = 'model' if config.quantizer == 'none' else 'quantized'
  return f'{kind}.safetensors'


def _base_model(
  config: ConfigDict, workdir: pathlib.Path, net: Any
) -> tuple[Any, Any]:
  """Parameters and batch statistics to start from; trains them if need be."""
  image = jnp.zeros((1, 32, 32, 3))
  fresh = jax.jit(functools.partial(net.init, train=False))(
    jax.random.key(config.seed), image
  )
  if config.quantizer == 'none' and not config.pretrained:
    return fresh['params'], fresh['batch_stats']
  path = config.pretrained or _pretrained_here(config, workdir)
  base = model_file.load_any(path)
  for name, new in (('params', base.params), ('batch_stats', base.batch_stats)):
    wanted = {p: jnp.shape(x) for p, x in named_leaves(fresh[name]).items()}
    found = {p: jnp.shape(x) for p, x in named_leaves(new).items()}
    if wanted != found:
      odd = sorted(set(wanted.items()) ^ set(found.items()))[:4]
      raise ValueError(
        f'{path} does not fit config.network={config.network!r} on'
        f' {config.dataset}: its {name} differ, for instance in {odd}. It was'
        f' made for {base.metadata}.'
      )
  return base.params, base.batch_stats


def _pretrained_here(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
  base = build.full_precision(config)
  path = workdir / 'pretrain' / _model_name(base)
  if not path.exists():
    print(
      f'No config.pretrained: training a full-precision {config.network} on'
      f' {config.dataset} first, {base.epochs} epochs, in {path.parent}.'
    )
    train_and_evaluate(base, path.parent)
  return path


def _factor(loop: Loop, state: mq_jax.State) -> dict[str, float]:
  factor = loop.train.diagnostics(state).factor
  return {name: float(value) for name, value in factor.items()}


_NO_PROGRESS: dict[str, Any] = {
  'step': 0,
  'loss_sum': 0.0,
  'accuracy_sum': 0.0,
  'seconds': 0.0,
}


def _train(
  config: ConfigDict,
  loop: Loop,
  saved: Saved,
  progress: dict[str, Any],
  manager: ocp.CheckpointManager,
  log: metrics.Log,
  scalars: Any,
) -> mq_jax.State:
  """Steps to the end; saves as it goes and when a signal comes."""
  spe, every = loop.steps_per_epoch, config.checkpoint_every
  last_saved = step = progress['step']
  title = f'{config.network} {config.quantizer} {config.estimator}'
  state, codes = saved
  with (
    interrupt.noticed() as signal_number,
    display.progress(
      config.epochs * spe, step, title, epochs=config.epochs
    ) as bar,
  ):
    while step < config.epochs * spe:
      steps = min(config.chunk, spe - step % spe, every - step % every)
      began = time.perf_counter()
      state, totals = loop.run(state, step, steps)
      totals = jax.device_get(totals)
      step += int(totals.steps)
      if not totals.finite:
        raise TrainingDiverged(_divergence(step, last_saved, manager))
      progress = {
        'step': step,
        'loss_sum': progress['loss_sum'] + float(totals.loss),
        'accuracy_sum': progress['accuracy_sum'] + float(totals.accuracy),
        'seconds': progress['seconds'] + time.perf_counter() - began,
      }
      done_of_epoch = (step - 1) % spe + 1
      bar.update(
        step,
        epoch=(step - 1) // spe + 1,
        loss=progress['loss_sum'] / done_of_epoch,
      )
      if step % spe == 0:
        record, new_codes = _epoch_record(loop, state, progress, codes)
        metrics.append(log, record)
        metrics.write_scalars(scalars, record)
        bar.update(
          step,
          epoch=record['epoch'],
          loss=record['train_loss'],
          accuracy=record['test_accuracy'],
        )
        progress, codes = _NO_PROGRESS | {'step': step}, new_codes
      number = signal_number()
      if step % spe == 0 or step % every == 0 or number is not None:
        checkpoints.save(manager, step, Saved(state, codes), progress)
        last_saved = step
      if number is not None:
        bar.log(f'Saved at step {step}; the same command goes on from there.')
        interrupt.leave(number)
  return state


def _epoch_record(
  loop: Loop,
  state: mq_jax.State,
  progress: dict[str, Any],
  codes: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The epoch's line of metrics.jsonl, and its codes for the next one."""
  began = time.perf_counter()
  spe = loop.steps_per_epoch
  test_loss, test_accuracy = loop.evaluate(
    loop.train.quantized(state), state.model_state
  )
  look = loop.train.diagnostics(state, codes)
  record = {
    'epoch': progress['step'] // spe,
    'step': progress['step'],
    'train_loss': progress['loss_sum'] / spe,
    'train_accuracy': 100 * progress['accuracy_sum'] / spe,
    'test_loss': test_loss,
    'test_accuracy': test_accuracy,
    'seconds': progress['seconds'],
    'test_seconds': time.perf_counter() - began,
    **_factor(loop, state),
    'flipped': {path: float(x) for path, x in look.flipped.items()},
    'saturation': {path: float(x) for path, x in look.saturation.items()},
  }
  return record, loop.train.codes(state)


def _divergence(
  step: int, last_saved: int, manager: ocp.CheckpointManager
) -> str:
  kept = (
    f'The last good checkpoint is that of step {last_saved} in'
    f' {manager.directory}'
    if last_saved
    else 'There is no checkpoint yet'
  )
  return (
    f'The loss or a gradient was not finite at step {step}. {kept}. Try a'
    ' smaller config.learning_rate or config.meta_learning_rate, or'
    " config.init='identity', in a new workdir."
  )


def _result(
  header: dict[str, Any], records: list[dict[str, Any]], path: pathlib.Path
) -> Result:
  accuracies = [record['test_accuracy'] for record in records]
  last = accuracies[-LAST:]
  return Result(
    full_precision_accuracy=header['start']['full_precision_accuracy'],
    last_accuracy=sum(last) / len(last),
    best_accuracy=max(accuracies),
    seconds_per_epoch=sum(r['seconds'] for r in records) / len(records),
    model_path=path,
    records=records,
  )
