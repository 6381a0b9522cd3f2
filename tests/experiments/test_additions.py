"""Tests that one declaration adds a method, estimator, network or data set."""

import jax
import numpy as np
import pytest

from experiments import training
from experiments.build import methods
from experiments.build.check import check
from experiments.build.fingerprint import identity
from experiments.build.key import Key
from experiments.build.schema import KEYS, default_config, help_text
from experiments.common.errors import ConfigError, InvalidError
from experiments.data import datasets
from experiments.records import model_file, run_log, workdir
from experiments.training import train
from tests.experiments import tiny, toys

EVERY = {'quantizer': 'toy', 'estimator': 'toy', 'network': 'toy'}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Declares all toys; returns a folder with the toy data set."""
  toys.declare(monkeypatch)
  toys.write(tmp_path)
  return tmp_path


def toy_config(folder, **changes):
  config = default_config()
  config.update(
    **EVERY,
    dataset='toy',
    data_dir=str(folder),
    hidden=2,
    learning_rate=0.1,
    batch_size=6,
    epochs=3,
    pretrain_epochs=1,
    chunk=4,
    checkpoint_every=5,
  )
  config.update(changes)
  return config


@pytest.mark.parametrize('key', [*EVERY, 'dataset'])
def test_addition_before_declaration_raises(key):
  config = default_config()
  config[key] = 'toy'
  with pytest.raises(ConfigError, match=rf"config\.{key}='toy' must be one"):
    check(config)


def test_addition_is_checked_like_built_in_choices(folder):
  check(toy_config(folder))
  config = toy_config(folder)
  config.method.scale = 0.0
  with pytest.raises(ConfigError, match=r'scale=0\.0 must be above 0'):
    check(config)
  config = toy_config(folder, bits=2)
  with pytest.raises(ConfigError, match=r"bits=2 has no effect.*'toy'"):
    check(config)


def test_addition_is_in_help_and_fingerprint(folder):
  assert 'Options of --config.quantizer=toy:' in help_text()
  assert '--config.method.scale=0.5: Size of both levels.' in help_text()
  config = toy_config(folder).to_dict()
  assert identity(config | {'layers': 3}) == identity(config)
  assert identity(config | {'method': {'scale': 0.5}}) == identity(config)
  for change in ({'hidden': 3}, {'method': {'scale': 1.0}}):
    assert identity(config | change) != identity(config)


def test_data_set_reads_declared_keys_only(folder, monkeypatch):
  config = toy_config(folder).to_dict()
  for change in ({'augment': False}, {'holdout': 3}, {'dtype': 'bfloat16'}):
    assert identity(config | change) == identity(config)
  # The network does not read the type, but the data set does.
  digits = config | {'dataset': 'digits'}
  assert identity(digits | {'dtype': 'bfloat16'}) != identity(digits)
  received = {}

  def pipeline(keys, mesh):
    received.update(keys)
    return toys.stream(keys, mesh)

  reads = (*toys.DATASET.reads, 'frame')
  dataset = toys.DATASET._replace(pipeline=pipeline, reads=reads)
  monkeypatch.setitem(datasets.DATASETS, 'toy', dataset)
  monkeypatch.setitem(KEYS, 'frame', Key(1, 'Frame of the video.'))
  config = toy_config(folder, frame=2)
  train.make_pipeline(config)
  assert set(received) == set(reads)
  config, digits = config.to_dict(), digits | {'frame': 2}
  assert identity(config | {'frame': 3}) != identity(config)
  assert identity(digits | {'frame': 3}) == identity(digits)
  assert 'Frame of the video. Only with config.dataset=toy.' in help_text()


def test_load_stream_names_missing_declaration(folder):
  with pytest.raises(InvalidError, match=r"dataset='toy' declares no `load`"):
    datasets.load('toy', folder)


def test_check_choice_after_training_in_training_method_raises(
  folder, monkeypatch
):
  choice = methods.AfterTraining(5, lambda loss, params, rules: {})
  method = toys.METHOD._replace(
    make=lambda keys, context: methods.MethodParts(
      toys.constant_scale(1.0), threshold=0.0, after_training=choice
    )
  )
  monkeypatch.setitem(methods.METHODS, 'toy', method)
  with pytest.raises(ConfigError, match="'toy' declares after_training"):
    check(toy_config(folder))


@pytest.mark.usefixtures('compilation_cache')
def test_stream_batches_that_devices_cannot_split_are_tested(folder):
  config = toy_config(folder, pretrain_epochs=0, epochs=1)
  config.update(mesh_data=2, recalibrate=1)
  assert toys.SIZE % 2 == 1
  result = training.train_and_evaluate(config, folder / 'run')
  assert result.records[-1]['step'] == toys.SIZE // 6


@pytest.mark.parametrize('trials', [1, 2])
def test_host_stream_trains_and_resumes_bit_for_bit(folder, trials):
  """Tests that the loop runs a data set with another shape, from a file."""
  config = toy_config(folder, trials=trials)
  base = toy_config(folder, quantizer='none', estimator='ste', epochs=1)
  made = training.train_and_evaluate(base, folder / 'base')
  config.pretrained = str(made.model_path)
  whole = training.train_and_evaluate(config, folder / 'whole')
  assert whole.last_accuracy > 80  # There are three classes.
  asked = iter([False, False, True])
  with pytest.raises(training.Stopped):
    training.train_and_evaluate(
      config, folder / 'parts', stop=lambda: next(asked)
    )
  parts = training.train_and_evaluate(config, folder / 'parts')
  ends = [tiny.end_of_run(config, folder / name) for name in ('parts', 'whole')]
  assert ends[0] == ends[1]
  got = model_file.load_model(parts.model_path)
  assert set(np.unique(got.params['head']['kernel'])) == {-0.5, 0.5}


def test_host_stream_on_accelerator_runs_step_by_step(folder, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  config = toy_config(folder, pretrain_epochs=0, epochs=1)
  result = training.train_and_evaluate(config, folder / 'run')
  assert result.records[-1]['step'] == toys.SIZE // 6


def test_phi_gradient_norm_is_logged_only_for_learned_rules(folder):
  learned = toy_config(folder, pretrain_epochs=0, epochs=1)
  plain = toy_config(folder, pretrain_epochs=0, epochs=1, estimator='ste')
  for config, is_logged in ((learned, True), (plain, False)):
    run = folder / config.estimator
    training.train_and_evaluate(config, run)
    _, (record,) = run_log.read_log(run / workdir.LOG)
    assert ('phi_grad_norm' in record) == is_logged
    assert not is_logged or record['phi_grad_norm'] > 0
