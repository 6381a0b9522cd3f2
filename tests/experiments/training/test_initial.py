"""Tests the weights that a run starts from."""

import jax
import numpy as np
import pytest

from experiments.build.check import check
from experiments.common.errors import ConfigError, InvalidError
from experiments.records import model_file, run_log
from experiments.training import initial, train
from tests.experiments import tiny

# Shape and type of an image.
PIXELS = jax.ShapeDtypeStruct((32, 32, 3), np.float32)


@pytest.fixture
def config(tmp_path, monkeypatch):
  """Returns a configuration whose base model has a hundred classes."""
  tiny.put_in(monkeypatch)
  path = tiny.write_model(tmp_path / 'hundred.safetensors', tiny.Net(100))
  return tiny.config(pretrained=path, epochs=1, estimator='ste', hidden=100)


def test_initial_variables_new_head_keeps_all_other_layers(config):
  net = tiny.Net(10)
  with pytest.raises(InvalidError, match=r'set config\.new_head=True'):
    initial.initial_variables(config, net, PIXELS, config.pretrained)
  config.new_head = True
  params, batch_stats, *_ = initial.initial_variables(
    config, net, PIXELS, config.pretrained
  )
  loaded = model_file.load_model(config.pretrained)
  assert tiny.as_bytes(params['norm']) == tiny.as_bytes(loaded.params['norm'])
  assert tiny.as_bytes(batch_stats) == tiny.as_bytes(loaded.batch_stats)
  assert params['head']['kernel'].shape == (48, 10)
  config.seed = 1
  other, *_ = initial.initial_variables(config, net, PIXELS, config.pretrained)
  assert np.any(other['head']['kernel'] != params['head']['kernel'])


def test_run_with_new_head_has_no_base_accuracy(config, tmp_path):
  config.new_head = True
  result = train.train_and_evaluate(config, tmp_path / 'run')
  assert result.base_accuracy is None
  header, _ = run_log.read_log(tmp_path / 'run' / 'metrics.jsonl')
  assert 'base_accuracy' not in header['start']


def test_check_new_head_without_model_file_raises(config):
  config.update(new_head=True, pretrained='')
  with pytest.raises(ConfigError, match=r'set config\.pretrained'):
    check(config)


def test_check_accumulate_that_does_not_divide_the_batch_raises(config):
  config.accumulate = 3
  with pytest.raises(ConfigError, match=r'must divide config\.batch_size=256'):
    check(config)
  config.accumulate = 4
  check(config)


def test_run_file_with_folded_norms_measures_their_statistics(tmp_path, config):
  net = tiny.Net(10)
  weights = tiny.variables(net)
  path = tmp_path / 'folded.safetensors'
  model_file.save_model(
    path, weights['params'], weights['batch_stats'], {'norms': 'folded'}
  )
  kept, *_ = initial.initial_variables(config, net, PIXELS, str(path))
  assert tiny.as_bytes(kept) == tiny.as_bytes(weights['params'])
  config.update(pretrained=str(path), epochs=1, optimizer='sgd')
  # Nothing is learned, so that the network is the one of the file, but its
  # running statistics have moved to those of the training batches.
  config.update(learning_rate=1e-30)
  result = train.train_and_evaluate(config, tmp_path / 'run')
  (record,) = result.records
  assert record['train_loss'] == pytest.approx(record['test_loss'], rel=0.2)
  params = model_file.load_model(result.model_path).params
  assert np.any(params['norm']['scale'] != weights['params']['norm']['scale'])


def test_soft_labels_of_another_data_set_raise(tmp_path):
  path = tmp_path / 'net.safetensors'
  net = tiny.Net(10)
  weights = net.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), train=False)
  for dataset, is_refused in ('cifar10', True), ('digits', False):
    model_file.save_model(
      path, weights['params'], weights['batch_stats'], {'dataset': dataset}
    )
    for distill in 0.0, 0.5:
      config = tiny.config(
        dataset='digits', distill=distill, pretrained=str(path)
      )
      if is_refused and distill:
        with pytest.raises(InvalidError, match='trained on cifar10, not on'):
          initial.initial_variables(config, net, PIXELS, str(path))
      else:
        initial.initial_variables(config, net, PIXELS, str(path))


def test_base_model_with_quantized_activations_is_no_teacher(tmp_path, config):
  net = tiny.Net(10)
  weights = tiny.variables(net)
  path = tmp_path / 'net.safetensors'
  config.update(pretrained=str(path), epochs=1)
  for activations, is_full in (('relu 2', True), ('sign 2', False)):
    model_file.save_model(
      path,
      weights['params'],
      weights['batch_stats'],
      {'activations': activations},
    )
    result = train.train_and_evaluate(config, tmp_path / activations)
    # Its accuracy with ReLUs would be that of another network.
    assert (result.base_accuracy is not None) == is_full
    config.distill = 0.5
    if is_full:
      initial.initial_variables(config, net, PIXELS, str(path))
    else:
      with pytest.raises(
        InvalidError, match='with the activations sign 2: use'
      ):
        initial.initial_variables(config, net, PIXELS, str(path))
    config.distill = 0.0


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    (
      {'padding': 'same'},
      'config.padding=same, but .* config.padding=torch: set',
    ),
    ({'width': '0.5'}, 'config.width=0.5, but .*: set --config.width=0.5'),
    ({'head_norm': 'True'}, 'config.head_norm=True, but'),
  ],
)
def test_initial_variables_other_options_raise(tmp_path, options, match):
  path = tmp_path / 'net.safetensors'
  weights = {'head': {'bias': np.zeros(10, np.float32)}}
  model_file.save_model(
    path, weights, {}, {'network': 'mobilenet_v2'} | options
  )
  config = tiny.config(network='mobilenet_v2')
  net = tiny.Net(10)
  with pytest.raises(InvalidError, match=match):
    initial.initial_variables(config, net, PIXELS, str(path))
  # Equal options are accepted; here the arrays then do not fit.
  equal = {'padding': 'torch', 'width': '1.0'}
  model_file.save_model(path, weights, {}, {'network': 'mobilenet_v2'} | equal)
  with pytest.raises(InvalidError, match='the shape of head/kernel is ab'):
    initial.initial_variables(config, net, PIXELS, str(path))
