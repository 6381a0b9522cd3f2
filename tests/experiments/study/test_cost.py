"""Tests the GPU hours of the runs that are left."""

import json

import pytest

from experiments.configs import resnet18
from experiments.study import cost, spec

MEASURED = [
  cost.Measured('resnet20', 32, 128, 100, 'multi_fc', 'float32', 10.0, 'A'),
  cost.Measured('resnet20', 32, 128, 100, 'ste', 'float32', 5.0, 'A'),
  cost.Measured('resnet18', 224, 128, 100, 'ste', 'bfloat16', 9.0, 'A'),
]


def of(config, epochs=10):
  return cost.of_epochs(config, epochs, MEASURED)


def test_of_epochs_is_time_of_steps_of_all_trials():
  config = spec.in_protocol('fair', layers=2, trials=3)
  config.layers = 2
  # 390 full batches of 128 in the 50,000 images.
  found = of(config)
  assert found.hours == pytest.approx(0.010 * 390 * 10 * 3 / 3600)
  assert (found.device, found.is_other_dtype) == ('A', False)
  config.update(holdout=5000, epoch_steps=0)
  assert of(config).hours == pytest.approx(0.010 * 351 * 10 * 3 / 3600)
  config.epoch_steps = 20
  assert of(config).hours == pytest.approx(0.010 * 20 * 10 * 3 / 3600)


def test_of_epochs_other_dtype_is_marked():
  config = resnet18.get_config(estimator='ste')
  found = of(config, 30)
  # 10,009 full batches of 128 in the 1,281,167 images.
  assert found.hours == pytest.approx(0.009 * 10_009 * 30 / 3600)
  assert cost.describe([found]) == '0.75 in bfloat16'
  config.dtype = 'bfloat16'
  assert cost.describe([of(config, 30)] * 2) == '1.5'


@pytest.mark.parametrize(
  'changes',
  [
    {'layers': 3},
    {'slim': True},
    {'hidden': 50},
    {'batch_size': 64},
    {'network': 'resnet32'},
    {'dataset': 'digits'},
    {'quantizer': 'lsq', 'estimator': 'ste'},
    {'activation_quantizer': 'dorefa'},
    {'estimator': 'kernel_wise'},
    {'accumulate': 2},
    {'distill': 0.5},
    {'group_size': 16},
  ],
)
def test_of_epochs_step_that_was_not_measured_is_unknown(changes):
  config = spec.in_protocol('fair')
  config.layers = 2
  assert of(config) is not None
  config.update(changes)
  assert of(config) is None
  assert cost.describe([of(config)]) == ''


def test_read_committed_benchmarks_names_every_estimator_of_the_cost():
  measured = cost.read()
  found = {(m.network, m.image_size, m.backward): m.ms for m in measured}
  assert 9 < found['resnet18', 224, 'ste'] < 10
  assert 370 < found['resnet18', 224, 'lstm_fc, bfloat16 memory'] < 372
  assert 2 < found['resnet20', 32, 'fc_grad'] < 3
  config = resnet18.get_config(estimator='lstm_fc', memory_dtype='bfloat16')
  assert cost.of_epochs(config, 1, measured) is not None
  # A grid was not measured there, and costs less than an LSTM per weight.
  config.update(memory_dtype='float32', grid_points=32)
  assert cost.of_epochs(config, 1, measured) is None


def test_read_missing_folder_is_empty(tmp_path):
  assert cost.read(tmp_path / 'none') == []


def test_of_epochs_fastest_of_equal_steps_counts(tmp_path):
  for name, ms in (('gpu-step_time.json', 3.0), ('gpu-step_time-b.json', 2.0)):
    report = {
      'config': {
        'network': 'resnet20',
        'batch_size': 128,
        'hidden': 100,
        'dtype': 'float32',
      },
      'rows': [{'backward': 'ste', 'ms': ms}],
      'device': {'kind': 'A'},
    }
    (tmp_path / name).write_text(json.dumps(report))
  config = spec.in_protocol('fair', estimator='ste')
  found = cost.of_epochs(config, 1, cost.read(tmp_path))
  assert found.hours == pytest.approx(0.002 * 390 / 3600)


def test_note_says_what_is_not_known():
  config = spec.in_protocol('fair', estimator='ste')
  text = cost.note([of(config, 1000)], 3)
  assert '0.54 GPU hours are left for 1 of 3 runs' in text
  assert 'No such step was measured for the other runs.' in text
