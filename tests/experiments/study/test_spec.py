"""Tests studies and protocols."""

import pytest

from experiments.build import optimizers
from experiments.build.estimators import ESTIMATORS
from experiments.build.fingerprint import identity
from experiments.common.errors import ConfigError, InvalidError, MissingError
from experiments.report import comparison
from experiments.study import spec


def test_load_all_settings_of_a_study_differ():
  studies = spec.load_all()
  assert {'table1', 'table2', 'table5', 'table6', 'fig4'} < set(studies)
  for name, study in studies.items():
    identities = [identity(c.to_dict()) for c in study.settings.values()]
    assert len(set(identities)) == len(identities), name


@pytest.mark.parametrize(
  ('study', 'cells'),
  [
    *(('table1', 42), ('table2', 28), ('table5', 6), ('table6', 6)),
    *(('table3', 5), ('slb', 24), ('psgd', 1)),
  ],
)
def test_published_each_cell_has_a_setting(study, cells):
  loaded = spec.load_all()[study]
  found = [
    name
    for name, config in loaded.settings.items()
    if comparison.published(loaded.published, config, name)
  ]
  assert len(found) == cells


def test_in_protocol_protocols_differ_in_baselines_only():
  adam = {'optimizer': 'adam'}
  paper, fair = (
    spec.in_protocol(protocol, estimator='ste', **adam)
    for protocol in ('paper', 'fair')
  )
  assert (paper.weight_decay, fair.weight_decay) == (0.0, 5e-4)
  for protocol in ('paper', 'fair'):
    learned = spec.in_protocol(protocol, estimator='multi_fc', **adam)
    assert learned.weight_decay == 5e-4
    assert (learned.layers, learned.meta_decay_every) == (3, 0)
    assert not learned.carry
  # Under SGD, no method had weight decay.
  assert set(spec.both_protocols('a', estimator='ste')) == {'a'}
  assert set(spec.both_protocols('a', estimator='ste', **adam)) == {
    'a-fair',
    'a-paper',
  }
  both = spec.both_protocols('a', {'decay_every': 61}, estimator='ste')
  decays = {name: config.decay_every for name, config in both.items()}
  assert decays == {'a-fair': 30, 'a-paper': 61}
  with pytest.raises(ValueError, match="'unfair'"):
    spec.in_protocol('unfair')


def test_table2_only_baselines_of_paper_have_other_schedule():
  for name, config in spec.load_all()['table2'].settings.items():
    assert config.decay_every == (61 if name.endswith('ste-paper') else 30)
  settings = spec.load_all()['table1'].settings.values()
  assert {config.decay_every for config in settings} == {30}


@pytest.mark.parametrize('optimizer', optimizers.OPTIMIZERS)
@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('protocol', spec.PROTOCOLS)
def test_in_protocol_sets_values_of_logs(protocol, estimator, optimizer):
  config = spec.in_protocol(protocol, estimator=estimator, optimizer=optimizer)
  assert config.layers == (3 if estimator == 'multi_fc' else 2)
  bare = optimizer != 'adam' or (protocol, estimator) == ('paper', 'ste')
  assert config.weight_decay == (0.0 if bare else 5e-4)
  assert (config.carry, config.meta_decay_every) == (False, 0)
  assert (config.learning_rate, config.meta_learning_rate) == (1e-3, 1e-3)
  values = (config.epochs, config.batch_size, config.decay_every)
  assert values == (100, 128, 30)
  values = (config.phi_cotangent, config.init, config.hidden)
  assert values == ('ste', 'random', 100)


def test_load_setting_name_with_slash_raises(tmp_path):
  path = tmp_path / 'slash.py'
  path.write_text(
    'from experiments.study import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('slash', {'a/b': in_protocol('fair')})\n"
  )
  with pytest.raises(
    InvalidError, match=r"'a/b' in .*slash\.py becomes part of file names"
  ):
    spec.load(path)


def test_load_invalid_study_raises(tmp_path):
  with pytest.raises(MissingError, match=r'no study .*none\.py.*table1\.py'):
    spec.load(tmp_path / 'none.py')
  empty = tmp_path / 'empty.py'
  empty.write_text('')
  with pytest.raises(
    InvalidError, match=r'empty\.py has no function get_study'
  ):
    spec.load(empty)
  wrong = tmp_path / 'wrong.py'
  wrong.write_text(
    'from experiments.study import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('wrong', {'a': in_protocol('fair', bits=9)})\n"
  )
  with pytest.raises(ConfigError, match=r'a in .*wrong\.py: bits=9'):
    spec.load(wrong)
  empty.write_text('def get_study(:\n')
  with pytest.raises(InvalidError, match=r'empty\.py is not a Python file: '):
    spec.load(empty)


@pytest.mark.parametrize(
  ('returned', 'message'),
  [
    ("{'a': in_protocol('fair')}", 'returned a dict: return a Study'),
    ("Study('', {'a': {'bits': 2}})", "setting 'a' .* is a dict: make it by"),
    ("Study('', {}, trials=0)", 'trials=0 .* must be at least 1'),
    ("Study('', {'a': in_protocol('fair', seed=5)})", 'config.seed=5 .*effect'),
    ("Study('', {'a': in_protocol('fair', trials=3)})", 'config.trials=3'),
    (
      "Study('', {'a': in_protocol('fair')}, baselines={'a': 'b'})",
      "name the setting 'b', which the study does not have",
    ),
  ],
)
def test_load_what_a_study_would_ignore_raises(tmp_path, returned, message):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from experiments.study import Study, in_protocol\n'
    f'def get_study():\n  return {returned}\n'
  )
  with pytest.raises(InvalidError, match=message):
    spec.load(path)


def test_load_settings_of_which_one_names_its_base_model_raises(tmp_path):
  path = tmp_path / 'mine.py'
  text = (
    'from experiments.study import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('Mine', {{'a': in_protocol('fair'), 'b': in_protocol("
    "'fair', pretrained='mine.pth'{})}})\n"
  )
  path.write_text(text.format(''))
  with pytest.raises(InvalidError, match=r'a and b .* set pretrained in both'):
    spec.load(path)
  path.write_text(text.format(', learning_rate=0.1'))
  assert set(spec.load(path).settings) == {'a', 'b'}
