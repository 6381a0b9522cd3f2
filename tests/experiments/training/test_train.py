"""Tests complete runs of a tiny network: files, errors and resumption."""

import json
import os
import pathlib
import signal
from unittest import mock

import jax
import numpy as np
import pytest

import mq_jax
from experiments import training
from experiments.build import optimizers
from experiments.build.base_model import base_config
from experiments.common import errors
from experiments.data import datasets
from experiments.records import checkpoints, model_file, run_log, workdir
from experiments.training import divergence, train
from tests.experiments import tiny

pytestmark = pytest.mark.usefixtures('compilation_cache')


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
  tiny.put_in(monkeypatch)


@pytest.fixture
def config(tmp_path):
  """Returns the configuration of a run that starts from random weights."""
  path = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  return tiny.config(pretrained=path, estimator='fc_grad')


def files_in(folder):
  return sorted(p for p in folder.rglob('*') if p.is_file())


def forbid_training(monkeypatch):
  """Makes the test fail if a run loads data, trains, or saves a model."""

  def fail(*args, **kwargs):
    pytest.fail('The run must need neither data nor training.')

  monkeypatch.setattr(train, 'make_pipeline', fail)
  monkeypatch.setattr(train, 'make_steps', fail)
  monkeypatch.setattr(model_file, 'save_model', fail)


def numpy_test(path):
  """Returns loss and accuracy in percent of a model file on the digits."""
  model = model_file.load_model(path)
  return tiny.numpy_test(
    model.params, model.batch_stats, datasets.load('digits')
  )


def test_run_writes_measured_values(tmp_path, config):
  work = tmp_path / 'run'
  result = train.train_and_evaluate(config, work)

  lines = [json.loads(x) for x in (work / 'metrics.jsonl').open()]
  header, *records = lines
  assert header['config'] == config.to_dict()
  assert {'device', 'versions', 'commit', 'date'} < header.keys()
  assert header['device']['platform'] == 'cpu'
  assert header['versions']['jax'] == jax.__version__
  assert records == result.records
  assert [r['epoch'] for r in records] == [1, 2]
  assert [r['step'] for r in records] == [tiny.STEPS, 2 * tiny.STEPS]
  for record in records:
    assert record['seconds'] > 0
    assert (
      set(record['flipped']) == set(record['saturation']) == {'head/kernel'}
    )
    assert 0 <= record['flipped']['head/kernel'] <= 1

  # The file contains the model of the last test. Its weights have one bit.
  assert result.model_path == work / 'quantized.safetensors'
  loss, accuracy = numpy_test(result.model_path)
  assert records[-1]['test_loss'] == pytest.approx(loss, rel=1e-4)
  assert records[-1]['test_accuracy'] == pytest.approx(accuracy, rel=1e-6)
  model = model_file.load_model(result.model_path)
  assert set(np.unique(model.params['head']['kernel'])) == {-1.0, 1.0}
  assert model.metadata['dataset'] == 'digits'

  _, base_accuracy = numpy_test(config.pretrained)
  assert result.base_accuracy == pytest.approx(base_accuracy)
  assert header['start']['base_accuracy'] == pytest.approx(base_accuracy)
  accuracies = [r['test_accuracy'] for r in records]
  assert result.best_accuracy == max(accuracies)
  assert result.last_accuracy == pytest.approx(accuracies[-1])
  seconds = [r['seconds'] for r in records]
  assert result.seconds_per_epoch == pytest.approx(sum(seconds) / 2)


def test_run_trials_share_log_but_no_model(tmp_path, config, monkeypatch):
  config.update(trials=2, seed=5)
  work = tmp_path / 'run'
  result = train.train_and_evaluate(config, work)
  _, records = run_log.read_log(work / 'metrics.jsonl')
  assert records == result.records
  for record in records:
    assert [trial['seed'] for trial in record['trials']] == [5, 6]
    for name in ('train_loss', 'test_loss', 'test_accuracy', 's'):
      values = [trial[name] for trial in record['trials']]
      assert record[name] == pytest.approx(sum(values) / 2)
      assert name == 'test_accuracy' or values[0] != values[1]
  for trial in records[-1]['trials']:
    path = work / f'quantized-seed{trial["seed"]}.safetensors'
    loss, accuracy = numpy_test(path)
    assert trial['test_loss'] == pytest.approx(loss, rel=1e-4)
    assert trial['test_accuracy'] == pytest.approx(accuracy, rel=1e-6)
  assert result.model_path == work / 'quantized-seed5.safetensors'
  assert result.last_accuracy == pytest.approx(sum(result.trial_accuracies) / 2)
  # A trial equals a run of its seed alone, except for rounding errors.
  alone = train.train_and_evaluate(
    tiny.config(**{**config.to_dict(), 'trials': 1, 'seed': 6}),
    tmp_path / 'alone',
  )
  assert alone.records[0]['train_loss'] == pytest.approx(
    records[0]['trials'][1]['train_loss'], rel=1e-4
  )
  forbid_training(monkeypatch)
  assert train.train_and_evaluate(config, work) == result


def test_run_trials_from_random_weights_raise(tmp_path):
  config = tiny.config(trials=2, quantizer='none', estimator='ste')
  with pytest.raises(errors.ConfigError, match=r'set config\.pretrained'):
    train.train_and_evaluate(config, tmp_path / 'run')


def test_run_train_loss_is_mean_over_epoch(tmp_path, config, monkeypatch):
  losses = []
  make_steps = train.make_steps

  def make_recorded(*args):
    steps = make_steps(*args)

    def run(state, first, count):
      # One step at a time, so that the loss of each step is known.
      for step in range(first, first + count):
        state, totals = steps.run(state, step, 1)
        losses.append(float(totals.loss[0]))
      return state, totals._replace(
        steps=np.array([count]), loss=np.array([sum(losses[-count:])])
      )

    return steps._replace(run=run)

  monkeypatch.setattr(train, 'make_steps', make_recorded)
  result = train.train_and_evaluate(config, tmp_path / 'run')
  assert len(losses) == 2 * tiny.STEPS
  for record, epoch_losses in zip(
    result.records, np.reshape(losses, (2, -1)), strict=True
  ):
    assert record['train_loss'] == pytest.approx(epoch_losses.mean(), rel=1e-6)
  assert len(set(losses)) == len(losses)


class Killed(BaseException):
  """Ends a run like kill -9: the run writes nothing more to disk."""


def kill_run(config, folder, module, name, call, before):
  """Kills a run before or after the call-th call of a function."""
  original, calls = getattr(module, name), []

  def killing(*args, **kwargs):
    calls.append(name)
    if before and len(calls) == call:
      raise Killed
    result = original(*args, **kwargs)
    if len(calls) == call:
      raise Killed
    return result

  with mock.patch.object(module, name, killing), pytest.raises(Killed):
    train.train_and_evaluate(config, folder)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """Config, result and end of a complete run: LSTM, Adam, soft labels."""
  folder = tmp_path_factory.mktemp('uninterrupted')
  with pytest.MonkeyPatch.context() as patch:
    tiny.put_in(patch)
    path = tiny.write_model(folder / 'base.safetensors', tiny.Net(10))
    config = tiny.config(pretrained=path, distill=0.5)
    result = train.train_and_evaluate(config, folder / 'run')
    return config, result, tiny.end_of_run(config, folder / 'run')


# A run has ten steps and saves at 3, 5 (the end of the epoch), 6, 9 and 10.
@pytest.mark.parametrize(
  ('module', 'name', 'call', 'before'),
  [
    (checkpoints, 'save', 1, True),  # only the header exists
    (checkpoints, 'save', 1, False),  # in the middle of an epoch
    (run_log, 'append', 1, True),
    (checkpoints, 'save', 2, True),  # the record of the epoch exists
    (checkpoints, 'save', 2, False),
    (checkpoints, 'save', 5, True),
    (model_file, 'save_model', 1, True),  # only the model is missing
  ],
)
def test_run_killed_anywhere_resumes_bit_for_bit(
  tmp_path, uninterrupted, module, name, call, before
):
  config, expected, expected_end = uninterrupted
  kill_run(config, tmp_path, module, name, call, before)
  result = train.train_and_evaluate(config, tmp_path)
  assert result.base_accuracy == expected.base_accuracy
  assert tiny.timeless(result.records) == tiny.timeless(expected.records)
  end = tiny.end_of_run(config, tmp_path)
  assert end == expected_end
  assert end['step'] == 2 * tiny.STEPS
  for part in ('params', 'phi', 'refine_state', 'estimator_state', 'grads'):
    assert any(path.startswith(f'state/{part}') for path in end['state']), part


@pytest.mark.parametrize('epoch', [1, 2])
def test_run_stopped_in_a_test_repeats_the_test(
  tmp_path, uninterrupted, monkeypatch, capsys, epoch
):
  config, expected, expected_end = uninterrupted
  make_steps, calls = train.make_steps, []

  def make_stopping(*args):
    steps = make_steps(*args)

    def evaluate(params, batch_stats, between):
      calls.append(epoch)
      if len(calls) == epoch:
        signal.raise_signal(signal.SIGTERM)
      return steps.evaluate(params, batch_stats, between)

    return steps._replace(evaluate=evaluate)

  with monkeypatch.context() as patch:
    patch.setattr(train, 'make_steps', make_stopping)
    with pytest.raises(SystemExit):
      train.train_and_evaluate(config, tmp_path)
  _, records = run_log.read_log(tmp_path / 'metrics.jsonl')
  assert len(records) == epoch - 1
  # A kill in the repeated test changes nothing.
  kill_run(config, tmp_path, run_log, 'append', 1, before=True)
  capsys.readouterr()
  result = train.train_and_evaluate(config, tmp_path)
  step = epoch * expected_end['step'] // config.epochs
  resumes = f'The run resumes from step {step} of {expected_end["step"]}.'
  assert resumes in capsys.readouterr().out
  assert tiny.timeless(result.records) == tiny.timeless(expected.records)
  end = tiny.end_of_run(config, tmp_path)
  for part in ('step', 'records', 'model'):
    assert end[part] == expected_end[part]


def test_run_complete_is_not_changed(tmp_path, config, monkeypatch):
  first = train.train_and_evaluate(config, tmp_path / 'run')
  files = {p: p.read_bytes() for p in files_in(tmp_path / 'run')}
  forbid_training(monkeypatch)
  assert train.train_and_evaluate(config, tmp_path / 'run') == first
  # The data folder is not part of the identity of a run.
  config.data_dir = '/moved'
  # Another process may have the folder.
  with workdir.lock(tmp_path / 'run'):
    assert train.train_and_evaluate(config, tmp_path / 'run') == first
  assert {p: p.read_bytes() for p in files_in(tmp_path / 'run')} == files


def test_run_resumes_after_data_moved(tmp_path, config):
  kill_run(config, tmp_path, checkpoints, 'save', 1, before=False)
  config.data_dir = '/moved'
  assert len(train.train_and_evaluate(config, tmp_path).records) == 2


def test_run_of_divided_weights_resumes_divided_and_bit_for_bit(
  tmp_path, config, monkeypatch, capsys
):
  config.update(estimator='lstm_fc', hidden=4, mesh_data=2, fsdp=True)
  complete = train.train_and_evaluate(config, tmp_path / 'complete')
  assert ' per device (estimator ' in capsys.readouterr().out
  resumed = tmp_path / 'resumed'
  kill_run(config, resumed, checkpoints, 'save', 1, before=False)
  run_epochs, divided = train.run_epochs, []

  def check_and_run(config, folder, steps, saved, *others):
    memory = saved.state.estimator_state.memory
    divided.extend(not leaf.is_fully_replicated for leaf in memory)
    return run_epochs(config, folder, steps, saved, *others)

  monkeypatch.setattr(train, 'run_epochs', check_and_run)
  result = train.train_and_evaluate(config, resumed)
  assert divided == [True, True]
  assert tiny.timeless(result.records) == tiny.timeless(complete.records)
  assert tiny.end_of_run(config, resumed) == tiny.end_of_run(
    config, tmp_path / 'complete'
  )


def test_run_without_base_model_trains_one_once(
  tmp_path, config, monkeypatch, capsys
):
  config.pretrained = ''
  make_pipeline = mock.Mock(wraps=train.make_pipeline)
  monkeypatch.setattr(train, 'make_pipeline', make_pipeline)
  result = train.train_and_evaluate(config, tmp_path)
  assert make_pipeline.call_count == 2  # of the base model and of the run
  output = capsys.readouterr().out
  assert 'training a full-precision resnet8 on digits first, 1 epoch' in output
  base = tmp_path / 'pretrain'
  header, records = run_log.read_log(base / 'metrics.jsonl')
  assert header['config'] == base_config(config).to_dict()
  assert len(records) == config.pretrain_epochs
  # The quantized run starts where the base model ended.
  _, accuracy = numpy_test(base / 'model.safetensors')
  assert result.base_accuracy == pytest.approx(accuracy)
  assert records[-1]['test_accuracy'] == pytest.approx(accuracy)

  # Another quantized run in the folder does not train the base model again.
  for path in files_in(tmp_path):
    if base not in path.parents:
      path.unlink()
  config.learning_rate = 1e-2
  stamps = {p: p.stat().st_mtime_ns for p in files_in(base)}
  checkpointed = tmp_path / 'checkpoints'
  checkpointed.rename(tmp_path.with_name('gone'))
  train.train_and_evaluate(config, tmp_path)
  output = capsys.readouterr().out
  assert 'first' not in output
  assert f'The base model is {base / "model.safetensors"}' in output
  assert {p: p.stat().st_mtime_ns for p in files_in(base)} == stamps

  # Longer training gives another base model.
  config.pretrain_epochs = 2
  (tmp_path / 'metrics.jsonl').unlink()
  with pytest.raises(errors.InvalidError, match='epochs: 1 in the log, 2 now'):
    train.train_and_evaluate(config, tmp_path)


def test_run_in_full_precision_reports_final_accuracy_as_base_accuracy(
  tmp_path, config
):
  base = base_config(config)
  result = train.train_and_evaluate(base, tmp_path)
  _, accuracy = numpy_test(tmp_path / 'model.safetensors')
  assert result.base_accuracy == pytest.approx(accuracy)
  assert result.model_path == tmp_path / 'model.safetensors'


@pytest.mark.parametrize(
  'values',
  [{'epochs': 0}, {'bits': 9}, {'network': 'vgg'}, {'lerning_rate': 1.0}],
)
def test_run_invalid_config_writes_nothing(
  tmp_path, config, monkeypatch, values
):
  forbid_training(monkeypatch)
  config.update(values)
  # The check must come before the training of a base model.
  config.pretrained = ''
  with pytest.raises(errors.ConfigError, match=next(iter(values))):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_run_batch_too_large_writes_nothing(tmp_path, config):
  config.update(batch_size=2000, pretrained='')
  with pytest.raises(errors.ConfigError, match='2000 must be at most 1437'):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_run_missing_data_names_command(tmp_path, config, capsys):
  config.update(dataset='cifar10', data_dir=str(tmp_path / 'no'), pretrained='')
  with pytest.raises(errors.MissingError, match=r'experiments\.prepare_data'):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not capsys.readouterr().out
  assert not (tmp_path / 'run').exists()


def test_run_invalid_base_model_raises(tmp_path, config, monkeypatch):
  config.pretrained = str(tmp_path / 'nowhere.safetensors')
  with pytest.raises(errors.MissingError, match='nowhere'):
    train.train_and_evaluate(config, tmp_path / 'run')
  config.pretrained = tiny.write_model(
    tmp_path / 'hundred.safetensors', tiny.Net(100)
  )
  with pytest.raises(errors.InvalidError, match='does not fit') as error:
    train.train_and_evaluate(config, tmp_path / 'run')
  for part in (
    'hundred',
    'resnet8',
    'digits',
    'the shape of head/bias is (100,) and not (10,)',
  ):
    assert part in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_run_base_model_in_home_folder_is_found(tmp_path, config, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  config.update(pretrained='~/base.safetensors', epochs=1)
  assert train.train_and_evaluate(config, tmp_path / 'run').records


def test_run_resumes_with_same_base_model_only(tmp_path, config, monkeypatch):
  config.update(epochs=1)
  train.train_and_evaluate(config, tmp_path / 'run')
  header, _ = run_log.read_log(tmp_path / 'run' / 'metrics.jsonl')
  assert header['start']['base'] == model_file.digest(config.pretrained)
  forbid_training(monkeypatch)
  moved = tmp_path / 'elsewhere' / 'base.safetensors'
  moved.parent.mkdir()
  pathlib.Path(config.pretrained).rename(moved)
  config.update(pretrained=str(moved))
  train.train_and_evaluate(config, tmp_path / 'run')
  monkeypatch.undo()
  tiny.write_model(moved, tiny.Net(10), seed=8)
  with pytest.raises(errors.InvalidError, match='another file than the run in'):
    train.train_and_evaluate(config, tmp_path / 'run')


def test_run_folder_of_other_config_raises(tmp_path, config, monkeypatch):
  work = tmp_path / 'run'
  train.train_and_evaluate(config, work)
  files = {p: p.read_bytes() for p in files_in(work)}
  # The error also names keys that change the shapes of the state.
  config.update(estimator='lstm_fc', seed=1)
  forbid_training(monkeypatch)
  with pytest.raises(errors.InvalidError) as error:
    train.train_and_evaluate(config, work)
  message = str(error.value)
  assert '  estimator: "fc_grad" in the log, "lstm_fc" now\n' in message
  assert '  seed: 0 in the log, 1 now\n' in message
  assert 'optimizer' not in message
  assert {p: p.read_bytes() for p in files_in(work)} == files


def test_run_damaged_checkpoint_resumes_bit_for_bit_from_earlier(
  tmp_path, uninterrupted, capsys
):
  config, _, expected_end = uninterrupted
  kill_run(config, tmp_path, checkpoints, 'save', 4, before=False)
  folder = tmp_path / 'checkpoints'
  assert sorted(os.listdir(folder)) == ['6', '9']
  path = folder / '9' / 'progress' / 'metadata'
  path.write_text(path.read_text().replace('"step":', '"stap":'))
  train.train_and_evaluate(config, tmp_path)
  assert 'The checkpoint of step 9 is damaged' in capsys.readouterr().out
  assert (folder / '9.damaged').is_dir()
  assert tiny.end_of_run(config, tmp_path) == expected_end


def test_run_in_folder_of_other_process_raises_and_changes_nothing(
  tmp_path, config
):
  work = tmp_path / 'run'
  kill_run(config, work, checkpoints, 'save', 1, before=False)
  with workdir.lock(work):
    before = {p: p.read_bytes() for p in files_in(work)}
    with pytest.raises(errors.BusyError, match='is in use by process'):
      train.train_and_evaluate(config, work)
    assert {p: p.read_bytes() for p in files_in(work)} == before


def test_run_is_locked_while_it_trains(tmp_path, config):
  def show(*args, **kwargs):
    with pytest.raises(errors.BusyError), workdir.lock(tmp_path):
      pytest.fail('The folder is not locked.')
    raise Killed

  with pytest.raises(Killed):
    train.train_and_evaluate(config, tmp_path, show=show)


def poison(monkeypatch, change, at):
  """Changes the state after one step; the loss of that step stays finite."""
  make_steps = train.make_steps

  def make_poisoned(*args):
    steps = make_steps(*args)

    def run(state, first, count):
      state, totals = steps.run(state, first, count)
      return (change(state) if first + count == at else state), totals

    return steps._replace(run=run)

  monkeypatch.setattr(train, 'make_steps', make_poisoned)


def filled(tree, value):
  return jax.tree.map(lambda leaf: jax.numpy.full_like(leaf, value), tree)


def test_run_non_finite_state_is_never_saved(tmp_path, config, monkeypatch):
  with monkeypatch.context() as patch:
    poison(
      patch,
      lambda state: state._replace(
        model_state=filled(state.model_state, np.inf)
      ),
      9,
    )
    with pytest.raises(training.TrainingDiverged) as error:
      train.train_and_evaluate(config, tmp_path)
  message = str(error.value)
  assert message.startswith('model_state/norm/')
  assert ' was not finite at step 9. ' in message
  assert 'of step 6 in' in message
  assert not (tmp_path / 'quantized.safetensors').exists()
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['5', '6']
  result = train.train_and_evaluate(config, tmp_path)
  assert [r['epoch'] for r in result.records] == [1, 2]


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize(
  'part', ['params', 'model_state', 'grads', 'phi', 'refine_state']
)
def test_not_finite_names_leaf(part, value):
  names = ('params', 'model_state', 'grads', 'phi', 'refine_state')
  state = mq_jax.State(
    **dict.fromkeys(mq_jax.State._fields, ())
    | {name: {'a': np.zeros(2, np.float32)} for name in names}
    | {'key': jax.random.key(0), 'step': np.int32(0)}
  )
  assert not divergence.not_finite(state)
  getattr(state, part)['a'][1] = value
  # An optimizer may start with an infinite number.
  is_allowed = part == 'refine_state' and value == np.inf
  assert divergence.not_finite(state) == ('' if is_allowed else f'{part}/a')


def test_run_non_finite_checkpoint_is_not_read(
  tmp_path, config, monkeypatch, capsys
):
  # A checkpoint of an earlier version may contain such a state.
  with monkeypatch.context() as patch:
    patch.setattr(divergence, 'not_finite', lambda state: '')
    poison(
      patch,
      lambda state: state._replace(phi=filled(state.phi, np.nan)),
      9,
    )
    kill_run(config, tmp_path, checkpoints, 'save', 4, before=False)
  result = train.train_and_evaluate(config, tmp_path)
  assert [r['epoch'] for r in result.records] == [1, 2]
  text = capsys.readouterr().out
  assert 'step 9 is damaged (its leaf phi' in text
  assert 'is not finite)' in text


def test_run_non_finite_test_loss_stops_before_its_record(
  tmp_path, config, monkeypatch
):
  config.trials = trials = 2
  make_steps, calls = train.make_steps, []

  def make_failing(*args):
    steps = make_steps(*args)

    def evaluate(params, batch_stats, between):
      calls.append(0)
      scores = steps.evaluate(params, batch_stats, between)
      # The last trial of the second epoch.
      return scores | ({'loss': np.inf} if len(calls) == 2 * trials else {})

    return steps._replace(evaluate=evaluate)

  monkeypatch.setattr(train, 'make_steps', make_failing)
  with pytest.raises(training.TrainingDiverged, match='The test loss was not'):
    train.train_and_evaluate(config, tmp_path)
  _, records = run_log.read_log(tmp_path / 'metrics.jsonl')
  assert [r['epoch'] for r in records] == [1]
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['6', '9']


def test_run_checkpoints_without_log_raise(tmp_path, config):
  kill_run(config, tmp_path, checkpoints, 'save', 1, before=False)
  (tmp_path / 'metrics.jsonl').unlink()
  with pytest.raises(errors.InvalidError, match=r'metrics\.jsonl is missing'):
    train.train_and_evaluate(config, tmp_path)


def test_run_non_finite_loss_stops(tmp_path, config, monkeypatch):
  def rate(config, steps_per_epoch, initial, cosine):
    # Counted from 1, the ninth step is the first with an infinite rate.
    return lambda step: jax.numpy.where(step < 8, initial, jax.numpy.inf)

  writer = mock.Mock()
  monkeypatch.setattr(run_log, 'open_scalars', lambda *args: writer)
  monkeypatch.setattr(optimizers, 'make_learning_rate', rate)
  for _ in range(2):  # The second run starts from the last checkpoint.
    with pytest.raises(training.TrainingDiverged) as error:
      train.train_and_evaluate(config, tmp_path / 'run')
    message = str(error.value)
    assert 'not finite at step 9.' in message
    assert f'of step 6 in {tmp_path / "run" / "checkpoints"}' in message
    assert 'smaller config.learning_rate' in message
    assert 'new workdir' in message
    writer.close.assert_called_once_with()
    writer.reset_mock()
    _, records = run_log.read_log(tmp_path / 'run/metrics.jsonl')
    assert [r['epoch'] for r in records] == [1]
    for line in (tmp_path / 'run/metrics.jsonl').open():
      json.loads(line, parse_constant=pytest.fail)
  saved = tiny.last_checkpoint(config, tmp_path / 'run')
  for leaf in tiny.as_arrays(saved.state).values():
    assert np.isfinite(leaf.astype(np.float64)).all()


def test_run_non_finite_first_step_names_no_checkpoint(tmp_path, config):
  config.update(quantizer='none', estimator='ste', learning_rate=3e38)
  with pytest.raises(training.TrainingDiverged, match='no checkpoint yet'):
    train.train_and_evaluate(config, pathlib.Path(tmp_path, 'run'))
