"""Studies, protocols, and when two runs are of one setting."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import check, method_options, optimizers, train_step
from experiments.build.check import ConfigError
from experiments.common.errors import InvalidError, MissingError
from experiments.configs import resnet20
from experiments.report import comparison
from experiments.study import spec


def test_every_study_of_ours_can_run():
  studies = spec.load_all()
  assert {'table1', 'table2', 'table5', 'table6', 'fig4'} < set(studies)
  for name, study in studies.items():
    identities = [spec.identity(c.to_dict()) for c in study.settings.values()]
    assert len(set(identities)) == len(identities), name


@pytest.mark.parametrize(
  ('study', 'cells'),
  [('table1', 42), ('table2', 28), ('table5', 6), ('table6', 6)],
)
def test_each_published_cell_is_a_setting(study, cells):
  loaded = spec.load_all()[study]
  found = [
    name
    for name, config in loaded.settings.items()
    if comparison.published(loaded.published, config)
  ]
  assert len(found) == cells


def test_protocols_differ_in_the_baselines_alone():
  adam = {'optimizer': 'adam', 'dataset': 'cifar100'}
  paper, fair = (
    spec.in_protocol(protocol, estimator='ste', **adam)
    for protocol in ('paper', 'fair')
  )
  assert (paper.weight_decay, paper.decay_every) == (0.0, 61)
  assert (fair.weight_decay, fair.decay_every) == (5e-4, 30)
  for protocol in ('paper', 'fair'):
    learned = spec.in_protocol(protocol, estimator='multi_fc', **adam)
    assert (learned.weight_decay, learned.decay_every) == (5e-4, 30)
    assert (learned.layers, learned.meta_decay_every) == (3, 0)
    assert not learned.carry
  # Under SGD, on CIFAR-10, nobody had a weight decay, or another schedule.
  assert set(spec.both_protocols('a', estimator='ste')) == {'a'}
  assert set(spec.both_protocols('a', estimator='ste', **adam)) == {
    'a-fair',
    'a-paper',
  }
  with pytest.raises(ValueError, match="'unfair'"):
    spec.in_protocol('unfair')


def test_what_makes_two_runs_one_setting():
  config = resnet20.get_config().to_dict()
  same = config | {
    'seed': 7,
    'trials': 3,
    'data_dir': '/elsewhere',
    'chunk': 1,
    'features': 'gradient',  # which MultiFC does not read
    'carry': False,  # nor this
    'per_channel': True,  # nor dorefa this
    'eps_root': 1.0,  # nor SGD this
    'clip': 1,  # as a number that was written by hand
  }
  assert spec.identity(same) == spec.identity(config)
  old = {k: v for k, v in config.items() if k not in ('slim', 'holdout')}
  assert spec.identity(old) == spec.identity(config)
  one, other = ({'pretrained': f'/{x}/base.pth'} for x in 'ab')
  assert spec.identity(config | one) == spec.identity(config | other)
  for key, value in (('slim', True), ('epochs', 3), ('pretrained', 'a.pth')):
    changed = config | {key: value}
    assert spec.identity(changed) != spec.identity(config)
    # What a base model took is no matter where it is given.
    apart = [key, 'pretrain_epochs']
    assert spec.identity(changed, without=apart) == spec.identity(
      config, without=apart
    )


def test_what_a_run_does_not_come_to_makes_no_other_setting():
  named = resnet20.get_config().to_dict() | {'decay_at': '3 5'}
  assert spec.identity(named | {'decay_every': 7}) == spec.identity(named)
  only = named | {'epochs': 0, 'quantizer': 'aciq', 'bits': 4}
  same = only | {'optimizer': 'adam', 'learning_rate': 1.0, 'batch_size': 5}
  assert spec.identity(same) == spec.identity(only)
  assert spec.identity(only | {'bits': 3}) != spec.identity(only)
  # Options have defaults too, and some may have gone since.
  ttq = named | {'quantizer': 'ttq'}
  full = ttq | {'method': {'threshold': 0.05}}
  assert spec.identity(full) == spec.identity(ttq)
  other = ttq | {'method': {'threshold': 0.1}}
  old = ttq | {'method': {'forgotten': 1}}
  assert len({spec.identity(c) for c in (ttq, other, old)}) == 3


class Recorder:
  """A configuration that notes which of its keys are read."""

  def __init__(self, config):
    self.config, self.seen = config, set()

  def __getattr__(self, key):
    self.seen.add(key)
    return self.config[key]


@pytest.mark.parametrize(
  ('estimator', 'quantizer', 'optimizer'),
  [
    *itertools.product(
      check.CHOICES['estimator'],
      ('dorefa', 'bwn', 'none'),
      check.CHOICES['optimizer'],
    ),
    *itertools.product(('ste',), method_options.OPTIONS, ('adam', 'sgd')),
  ],
)
def test_what_a_run_reads_tells_it_from_others(estimator, quantizer, optimizer):
  config = in_all(estimator, quantizer, optimizer)
  config.bits = 1 if quantizer in ('dorefa', 'bwn', 'none', 'slb') else 4
  recorder = Recorder(config)
  train_step.rules(recorder, 1)
  train_step.estimator(recorder, 1)
  train_step.refine(recorder, 1)
  train_step.post_update(recorder, 1)
  optimizers.learning_rate(recorder, 1)
  told = json.loads(spec.identity(config.to_dict()))
  # These are asked for always, and do nothing where nothing is learned.
  nothing = {'per_layer', 'slim'} if estimator == 'ste' else set()
  assert recorder.seen - nothing <= set(told)
  unread = set(spec.READ_BY) - set(told)
  assert not unread & (recorder.seen - nothing)
  # And nothing tells runs apart that none of them reads.
  stack = {
    'hidden',
    'layers',
    'estimator_activation',
    'init',
    'carry',
    'memory_dtype',
  }
  own = {'features', 'progress_epochs', 'bits', 'per_channel', 'clip'}
  others = {'float_layers', 'scaled_gradient', 'eps_root'}
  assert set(told) & (stack | own | others) <= recorder.seen


def in_all(estimator, quantizer, optimizer):
  config = resnet20.get_config()
  config.update(estimator=estimator, quantizer=quantizer, optimizer=optimizer)
  return config


def test_what_learns_nothing_reads_nothing_of_phi():
  """Two steps with any value of the keys that only learned rules read."""

  def after(**changes):
    config = in_all('ste', 'dorefa', 'adam')
    config.update(changes)
    assert spec.identity(config.to_dict()) == spec.identity(
      in_all('ste', 'dorefa', 'adam').to_dict()
    )

    def loss_fn(params, model_state, batch, rng):
      return jnp.sum(batch * params['kernel'] ** 3), (model_state, {})

    train = train_step.make_train_step(config, loss_fn, steps_per_epoch=2)
    kernel = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    state = train.init(jax.random.key(0), {'kernel': kernel}, {}, kernel)
    for _ in range(3):
      state, _ = train.step(state, kernel + 2)
    return np.asarray(state.params['kernel'])

  np.testing.assert_array_equal(
    after(
      phi_cotangent='estimator',
      meta_learning_rate=1.0,
      meta_optimizer='sgd',
      meta_decay_every=1,
      meta_every=2,
      meta_stop=1,
    ),
    after(),
  )


@pytest.mark.parametrize('optimizer', check.CHOICES['optimizer'])
@pytest.mark.parametrize('estimator', check.CHOICES['estimator'])
@pytest.mark.parametrize('protocol', spec.PROTOCOLS)
def test_a_protocol_sets_what_the_logs_ran(protocol, estimator, optimizer):
  config = spec.in_protocol(protocol, estimator=estimator, optimizer=optimizer)
  assert config.layers == (3 if estimator == 'multi_fc' else 2)
  bare = optimizer != 'adam' or (protocol, estimator) == ('paper', 'ste')
  assert config.weight_decay == (0.0 if bare else 5e-4)
  assert (config.carry, config.meta_decay_every) == (False, 0)
  assert (config.learning_rate, config.meta_learning_rate) == (1e-3, 1e-3)
  assert (config.epochs, config.batch_size, config.decay_every) == (
    *(100, 128, 30),
  )
  assert (config.phi_cotangent, config.init, config.hidden) == (
    *('ste', 'random', 100),
  )


def test_a_name_that_is_none_of_a_file_is_refused(tmp_path):
  path = tmp_path / 'slash.py'
  path.write_text(
    'from experiments.settings import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('slash', {'a/b': in_protocol('fair')})\n"
  )
  with pytest.raises(InvalidError, match=r"'a/b' in .*slash\.py names files"):
    spec.load(path)


def test_a_study_that_cannot_be_read_is_told(tmp_path):
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
    'from experiments.settings import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('wrong', {'a': in_protocol('fair', bits=9)})\n"
  )
  with pytest.raises(ConfigError, match=r'a in .*wrong\.py: bits=9'):
    spec.load(wrong)
