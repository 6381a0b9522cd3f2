"""Studies, protocols, and when two runs are of one setting."""

import pytest

from experiments import comparison, settings
from experiments.config_check import ConfigError
from experiments.configs import resnet20
from experiments.errors import InvalidError, MissingError


def test_every_study_of_ours_can_run():
  studies = settings.load_all()
  assert {'table1', 'table2', 'table5', 'table6', 'fig4'} < set(studies)
  for name, study in studies.items():
    identities = [
      settings.identity(c.to_dict()) for c in study.settings.values()
    ]
    assert len(set(identities)) == len(identities), name


@pytest.mark.parametrize(
  ('study', 'cells'),
  [('table1', 42), ('table2', 28), ('table5', 6), ('table6', 6)],
)
def test_each_published_cell_is_a_setting(study, cells):
  found = [
    name
    for name, config in settings.load_all()[study].settings.items()
    if not name.endswith('-fair') and comparison.published(study, config)
  ]
  assert len(found) == cells


def test_protocols_differ_in_the_baselines_alone():
  adam = {'optimizer': 'adam', 'dataset': 'cifar100'}
  paper, fair = (
    settings.in_protocol(protocol, estimator='ste', **adam)
    for protocol in ('paper', 'fair')
  )
  assert (paper.weight_decay, paper.decay_every) == (0.0, 61)
  assert (fair.weight_decay, fair.decay_every) == (5e-4, 30)
  for protocol in ('paper', 'fair'):
    learned = settings.in_protocol(protocol, estimator='multi_fc', **adam)
    assert (learned.weight_decay, learned.decay_every) == (5e-4, 30)
    assert (learned.layers, learned.meta_decay_every) == (3, 0)
    assert not learned.carry
  # Under SGD, on CIFAR-10, nobody had a weight decay, or another schedule.
  assert set(settings.both_protocols('a', estimator='ste')) == {'a'}
  assert set(settings.both_protocols('a', estimator='ste', **adam)) == {
    'a-fair',
    'a-paper',
  }
  with pytest.raises(ValueError, match="'unfair'"):
    settings.in_protocol('unfair')


def test_what_makes_two_runs_one_setting():
  config = resnet20.get_config().to_dict()
  same = config | {
    'seed': 7,
    'trials': 3,
    'data_dir': '/elsewhere',
    'chunk': 1,
    'features': 'gradient',  # which MultiFC does not read
    'clip': 1,  # as a number that was written by hand
  }
  assert settings.identity(same) == settings.identity(config)
  old = {k: v for k, v in config.items() if k not in ('slim', 'holdout')}
  assert settings.identity(old) == settings.identity(config)
  one, other = ({'pretrained': f'/{x}/base.pth'} for x in 'ab')
  assert settings.identity(config | one) == settings.identity(config | other)
  for key, value in (('slim', True), ('epochs', 3), ('pretrained', 'a.pth')):
    changed = config | {key: value}
    assert settings.identity(changed) != settings.identity(config)
    assert settings.identity(changed, without=[key]) == settings.identity(
      config, without=[key]
    )


def test_a_study_that_cannot_be_read_is_told(tmp_path):
  with pytest.raises(MissingError, match=r'no study .*none\.py.*table1\.py'):
    settings.load(tmp_path / 'none.py')
  empty = tmp_path / 'empty.py'
  empty.write_text('')
  with pytest.raises(
    InvalidError, match=r'empty\.py has no function get_study'
  ):
    settings.load(empty)
  wrong = tmp_path / 'wrong.py'
  wrong.write_text(
    'from experiments.settings import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('wrong', {'a': in_protocol('fair', bits=9)})\n"
  )
  with pytest.raises(ConfigError, match=r'a in .*wrong\.py: bits=9'):
    settings.load(wrong)
