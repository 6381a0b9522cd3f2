"""Tests the check of configurations: each error names the key and the value."""

import pytest
from ml_collections import ConfigDict

from experiments.build import optimizers
from experiments.build.base_model import base_config
from experiments.build.check import check
from experiments.common.errors import ConfigError
from experiments.configs import digits, resnet20, resnet110
from tests.experiments import tiny


@pytest.mark.parametrize(
  'config',
  [
    resnet20.get_config(),
    resnet110.get_config(),
    digits.get_config(),
    tiny.config(),
    base_config(resnet20.get_config()),
  ],
)
def test_check_shipped_configuration_passes(config):
  check(config)


@pytest.mark.parametrize('quantizer', ['dorefa', 'bwn'])
@pytest.mark.parametrize('optimizer', list(optimizers.OPTIMIZERS))
@pytest.mark.parametrize('estimator', ['ste', 'fc_grad', 'multi_fc', 'lstm_fc'])
def test_check_any_combination_of_choices_passes(
  quantizer, optimizer, estimator
):
  config = tiny.config(
    quantizer=quantizer, optimizer=optimizer, estimator=estimator
  )
  check(config)


@pytest.mark.parametrize(
  ('key', 'value', 'remedy'),
  [
    ('network', 'resnet21', "'resnet20', 'resnet32'"),
    ('dataset', 'mnist', "'cifar10', 'cifar100', 'digits'"),
    ('dtype', 'float16', "'float32', 'bfloat16'"),
    ('quantizer', 'xnor', "'none', 'dorefa', 'bwn'"),
    ('estimator', 'fc', "'ste', 'fc_grad'"),
    ('estimator_activation', 'gelu', "None, 'relu', 'tanh'"),
    ('init', 'zeros', "'random', 'identity'"),
    ('phi_cotangent', 'both', "'ste', 'estimator'"),
    ('optimizer', 'adagrad', "'sgd', 'momentum', 'adam'"),
    ('meta_optimizer', 'lion', "'adam', 'sgd'"),
    ('bits', 0, '1 to 8'),
    ('bits', 9, '1 to 8'),
    ('hidden', 0, 'hidden'),
    ('clip', -1.0, 'at least 0'),
    ('eps_root', -1.0, 'at least 0'),
    ('weight_decay', -1e-4, 'at least 0'),
    ('learning_rate', -1e-3, 'at least 0'),
    ('learning_rate', float('nan'), 'finite'),
    ('learning_rate', float('inf'), 'finite'),
    ('meta_learning_rate', -1e-3, 'at least 0'),
    ('decay_every', -1, 'at least 0'),
    ('meta_decay_every', -1, 'at least 0'),
    ('meta_every', 0, 'at least 1'),
    ('meta_stop', -1, 'at least 0'),
    ('holdout', -1, 'at least 0'),
    ('batch_size', 0, 'at least 1'),
    ('epochs', -1, 'at least 0'),
    ('pretrain_epochs', -1, 'at least 0'),
    ('chunk', 0, 'at least 1'),
    ('checkpoint_every', -5, 'at least 1'),
    ('seed', -1, 'at least 0'),
    ('seed', 2**31, 'at 2147483647 at most'),
    ('trials', 0, 'at least 1'),
    ('mesh_data', 0, 'a number of devices, or -1'),
    ('mesh_data', -2, 'at least -1'),
    ('fsdp', True, 'mesh_data to their number'),
    ('memory_dtype', 'float16', 'must be one of'),
    ('quantizer', 'dorfa', "Did you mean 'dorefa'"),
  ],
)
def test_check_value_out_of_range_names_key_and_remedy(key, value, remedy):
  config = tiny.config()
  config[key] = value
  with pytest.raises(ConfigError) as error:
    check(config)
  assert repr(value) in str(error.value)
  assert remedy in str(error.value)
  assert key in str(error.value)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('epochs', 3.0),
    ('epochs', True),
    ('epochs', '3'),
    ('seed', None),
    ('learning_rate', '1e-3'),
    ('learning_rate', None),
    ('carry', 1),
    ('network', 20),
  ],
)
def test_check_value_of_wrong_type_names_key(key, value):
  # A ConfigDict made from a dict accepts values of any type.
  config = ConfigDict(tiny.config().to_dict() | {key: value})
  with pytest.raises(ConfigError, match=f'config.{key}=') as error:
    check(config)
  assert repr(value) in str(error.value)


def test_check_learning_rate_of_type_int_passes():
  check(ConfigDict(tiny.config().to_dict() | {'learning_rate': 1}))


def test_check_unknown_or_missing_key_is_named():
  config = tiny.config(lerning_rate=0.1)
  with pytest.raises(ConfigError, match=r"\['lerning_rate'\].*'bits'"):
    check(config)
  config = tiny.config()
  del config.bits
  with pytest.raises(ConfigError, match=r"\['bits'\] are missing"):
    check(config)


@pytest.mark.parametrize(
  ('values', 'remedy'),
  [
    ({'quantizer': 'none'}, "set config.estimator='ste'"),
    (
      {'estimator': 'lstm_fc', 'grid_points': 1},
      'must be 0, or an integer of at least 2',
    ),
    (
      {'estimator': 'lstm_fc', 'grid_points': 8, 'memory_dtype': 'bfloat16'},
      'Leave memory_dtype or grid_points at its default',
    ),
    (
      {'quantizer': 'bwn', 'bits': 2},
      "no effect with config.quantizer='bwn': leave config.bits at 1",
    ),
    (
      {'per_channel': True},
      "no effect with config.quantizer='dorefa'.*Only with .*=bwn",
    ),
    (
      {'quantizer': 'twn', 'clip': 2.0},
      "no effect with config.quantizer='twn'",
    ),
    (
      {'activation_bits': 4},
      "no effect with config.activation_quantizer='relu'",
    ),
    ({'differentiate_refinement': True}, 'eps_root'),
    (
      {'quantizer': 'proxquant', 'estimator': 'feature_fc'},
      'has nothing to estimate',
    ),
    ({'float_layers': '('}, r"rule '\(' is not a valid regular"),
    ({'estimator': 'feature_fc', 'features': ''}, r'features=\(\) must be'),
    ({'estimator': 'feature_fc', 'features': 'age'}, r"\['age'\]"),
    ({'estimator': 'feature_fc', 'bits': 2}, "leave 'distance' out, or use"),
    (
      {'estimator': 'ede', 'quantizer': 'twn'},
      "reads the distance of .*/kernel .*quantizer='twn' does not round",
    ),
    ({'estimator': 'ede', 'quantizer': 'proxquant'}, 'reads the distance'),
    ({'estimator': 'ede', 'quantizer': 'none'}, 'has nothing to estimate'),
    (
      {'estimator': 'ede', 'rule': {'delta': 1.0}},
      r"rule\.delta is not an option of .*'ede'.*end, start.*=ewgs",
    ),
    (
      {'estimator': 'dsq', 'rule': {'alpha': 0.9}},
      r'config\.rule\.alpha=0\.9 must be from 0\.001 to 0\.5',
    ),
    (
      {'quantizer': 'md_tanh', 'estimator': 'ste', 'method': {'first': 200.0}},
      r'first=200\.0 must be at most config\.method\.last=100\.0',
    ),
    (
      {'quantizer': 'oscillation', 'bits': 4},
      "bits=4 has no effect with config.method.levels='binary'",
    ),
    (
      {'quantizer': 'oscillation', 'method': {'first': 0.0}},
      r'first=0\.0 must be at least config\.method\.last=0\.01',
    ),
    (
      {'quantizer': 'recu', 'method': {'start': 0.99, 'end': 0.6}},
      r'start=0\.99 must be at most end=0\.6',
    ),
    (
      {'estimator': 'ede', 'rule': {'start': 10.0, 'end': 0.1}},
      r'start=10\.0 must be at most end=0\.1',
    ),
    (
      {'quantizer': 'ttq', 'method': {'threshold': 1.0}},
      r'threshold=1\.0 must be from 0 to 0\.999',
    ),
    ({'estimator': 'ste', 'slim': True}, 'must be False'),
    ({'distill': 1.5}, 'distill=1.5 must be from 0 to 1'),
    ({'distill_temperature': 2.0}, 'no effect with config.distill=0.0'),
    (
      {'distill': 0.5, 'quantizer': 'none', 'estimator': 'ste'},
      "no effect with config.quantizer='none'",
    ),
    (
      {'distill': 0.5, 'pretrain_epochs': 0},
      'its last layer is random: set config.pretrained',
    ),
    (
      {'distill': 0.5, 'pretrained': 'x.safetensors', 'new_head': True},
      'its last layer is random',
    ),
    (
      {
        **{'new_head': True, 'pretrained': 'x.safetensors', 'epochs': 0},
        **{'estimator': 'ste', 'quantizer': 'uniform', 'bits': 4},
      },
      'leaves the last layer random with config.epochs=0',
    ),
    ({'schedule': 'linear'}, "schedule='linear' must be one of"),
    ({'estimator': 'ste', 'per_layer': True}, 'must be False'),
  ],
)
def test_check_conflicting_values_raise(values, remedy):
  with pytest.raises(ConfigError, match=remedy):
    check(tiny.config(**values))


def test_check_rule_or_estimator_that_does_not_fit_leaves_raises():
  with pytest.raises(ConfigError, match=r"'conv9' matches no leaf"):
    check(tiny.config(float_layers='conv9'))
  with pytest.raises(ConfigError, match=r'shortcut/kernel has shape'):
    check(tiny.config(estimator='kernel_wise', float_layers='head/kernel'))
  check(
    tiny.config(
      estimator='kernel_wise',
      float_layers='head/kernel|.*/shortcut/kernel',
    )
  )
