"""Tests the flags of the commands that train."""

import sys

import pytest
from absl import flags as absl_flags

from experiments.build.check import check
from experiments.build.key import similar_names
from experiments.build.schema import KEYS
from experiments.training import flags


@pytest.fixture
def parse(monkeypatch):
  """Returns a function that parses a command line and returns the config."""
  before = set(absl_flags.FLAGS)
  monkeypatch.setattr(sys, 'argv', [])

  def parse(*arguments):
    flags.parse_flags(['cifar', *map(str, arguments)])
    return flags.CONFIG.value

  yield parse
  for name in set(absl_flags.FLAGS) - before:
    delattr(absl_flags.FLAGS, name)
  absl_flags.FLAGS.unparse_flags()
  absl_flags.FLAGS['config'].unparse()


def file_without(folder, *names):
  """Writes a configuration file that lacks some keys."""
  path = folder / 'config.py'
  path.write_text(
    'from experiments.configs import resnet20\n'
    'def get_config():\n'
    '  config = resnet20.get_config()\n'
    f'  for name in {names}:\n'
    '    del config[name]\n'
    '  return config\n'
  )
  return path


@pytest.mark.parametrize(
  ('argument', 'name'),
  [
    ('--config.epochs.foo=1', 'epochs.foo'),
    ('--config.network.foo', 'network.foo'),
    ('--noconfig.lr', 'lr'),
    ('--config.=1', ''),
  ],
)
def test_parse_flags_key_not_declared_exits_with_its_name(
  parse, argument, name
):
  with pytest.raises(SystemExit) as error:
    parse(argument)
  assert str(error.value).startswith(f'config.{name} is not a key')


@pytest.mark.parametrize(
  ('missing', 'argument'),
  [
    ('epochs', '--config.epochs=3'),
    ('quantizer', '--config.method.x=1'),
    ('method', '--config.method.corrected'),
  ],
)
def test_parse_flags_file_lacks_given_key_exits_with_its_name(
  parse, tmp_path, missing, argument
):
  path = file_without(tmp_path, missing)
  more = [] if missing == 'quantizer' else ['--config.quantizer=aciq']
  with pytest.raises(SystemExit) as error:
    parse(f'--config={path}', *more, argument)
  assert f'does not set config.{missing}: start from' in str(error.value)


@pytest.mark.parametrize(
  ('argument', 'value'),
  [
    ('--config.method.corrected', True),
    ('--noconfig.method.corrected', False),
    ('--config.method.corrected=false', False),
  ],
)
def test_parse_flags_switch_of_method_leaves_next_flag(parse, argument, value):
  config = parse('--config.quantizer=aciq', argument, '--config.epochs=0')
  assert config.method.corrected is value
  assert config.epochs == 0


def test_parse_flags_option_of_method_without_value_exits(parse):
  with pytest.raises(
    SystemExit, match=r'--config\.method\.prior needs a value'
  ):
    parse(
      '--config.quantizer=aciq', '--config.method.prior', '--config.epochs=0'
    )


def test_parse_flags_options_of_rule_and_method(parse):
  config = parse(
    *('--config.quantizer=aciq', '--config.method.prior=range'),
    *('--config.estimator=ede', '--config.rule.end=5'),
  )
  assert (config.method.prior, config.rule.end) == ('range', 5.0)


def test_parse_flags_option_of_another_rule_exits(parse):
  with pytest.raises(
    SystemExit, match=r"rule\.delta is not an option of .*'ede'.*=ewgs"
  ):
    parse('--config.estimator=ede', '--config.rule.delta=1')


@pytest.mark.parametrize(
  ('recipe', 'arguments', 'rule'),
  [
    ('dsq', (), {'learning_rate': 1e-4}),
    ('dsq', ('--config.estimator=dsq',), {'learning_rate': 1e-4}),
    ('dsq', ('--config.estimator=ste',), {}),
    ('ir_net', ('--config.estimator=rbnn',), {}),
    (
      'ir_net',
      ('--config.rule.end=5', '--config.estimator=rbnn'),
      {'end': 5.0},
    ),
  ],
)
def test_parse_flags_chosen_rule_has_no_options_of_rule_of_file(
  parse, recipe, arguments, rule
):
  path = flags.CONFIGS / 'methods' / f'{recipe}.py'
  config = parse(f'--config={path}', *arguments)
  assert config.rule.to_dict() == rule
  check(config)


def test_parse_flags_chosen_rule_drops_an_option_of_equal_name(parse, tmp_path):
  path = tmp_path / 'config.py'
  path.write_text(
    'from experiments.configs.recipe import Recipe\n'
    'get_config = Recipe(\n'
    "  'bwn', 'own', changes='', estimator='ede', rule={'end': 5.0}\n"
    ')\n'
  )
  config = parse(f'--config={path}', '--config.estimator=rbnn')
  assert config.rule.to_dict() == {}


@pytest.mark.parametrize(
  ('arguments', 'options'),
  [
    ((), {'threshold': 0.7}),
    (('--config.quantizer=twn',), {'threshold': 0.7}),
    # Its threshold is 0.05.
    (('--config.quantizer=ttq',), {}),
    (('--config.quantizer', 'bwn'), {}),
    (
      ('--config.method.threshold=0.1', '--config.quantizer=ttq'),
      {'threshold': 0.1},
    ),
  ],
)
def test_parse_flags_chosen_method_has_no_options_of_method_of_file(
  parse, arguments, options
):
  path = flags.CONFIGS / 'methods' / 'twn.py'
  config = parse(f'--config={path}', *arguments)
  assert config.method.to_dict() == options
  check(config)


def test_similar_names_initials_come_first():
  for name, key in {
    'lr': 'learning_rate',
    'wd': 'weight_decay',
    'bs': 'batch_size',
    'learning': 'learning_rate',
    'rate': 'learning_rate',
    'epoch': 'epochs',
  }.items():
    assert key in similar_names(name, KEYS)
  assert similar_names('lr', KEYS)[0] == 'learning_rate'
  assert similar_names('epoch', KEYS)[0] == 'epochs'
  assert similar_names('zzz', KEYS) == []
