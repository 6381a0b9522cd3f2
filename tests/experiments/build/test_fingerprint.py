"""Tests fingerprints: the keys that identify a run, folders that may change."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import fingerprint
from experiments.build.fingerprint import identity
from experiments.build.schema import (
  KEYS,
  TABLES,
  default_config,
  recorded_config,
  unread_keys,
)
from experiments.common.errors import InvalidError
from tests.experiments import tiny


def test_identity_ignores_keys_that_a_run_does_not_read():
  config = default_config().to_dict()
  same = config | {
    'seed': 7,
    'trials': 3,
    'data_dir': '/elsewhere',
    'chunk': 1,
    'features': 'gradient',  # MultiFC does not read it.
    'carry': False,  # MultiFC does not read it.
    'per_channel': True,  # dorefa does not read it.
    'eps_root': 1.0,  # SGD does not read it.
    'clip': 1,  # The default is the float 1.0.
  }
  assert identity(same) == identity(config)
  old = {k: v for k, v in config.items() if k not in ('slim', 'holdout')}
  assert identity(old) == identity(config)
  first, second = ({'pretrained': f'/{x}/base.pth'} for x in 'ab')
  assert identity(config | first) == identity(config | second)
  for key, value in (('slim', True), ('epochs', 3), ('pretrained', 'a.pth')):
    changed = config | {key: value}
    assert identity(changed) != identity(config)
    # If a file is given, the training length of the base model has no effect.
    without = [key, 'pretrain_epochs']
    assert identity(changed, without=without) == identity(
      config, without=without
    )


def test_identity_ignores_replaced_keys_and_training_keys_without_epochs():
  named = default_config().to_dict() | {'decay_at': '3 5'}
  assert identity(named | {'decay_every': 7}) == identity(named)
  untrained = named | {'epochs': 0, 'quantizer': 'aciq', 'bits': 4}
  same = {'optimizer': 'adam', 'learning_rate': 1.0, 'batch_size': 5}
  assert identity(untrained | same) == identity(untrained)
  assert identity(untrained | {'bits': 3}) != identity(untrained)
  # The learning rate of a run in full precision follows a cosine.
  cosine = named | {'quantizer': 'none'}
  steps = {'decay_at': '30', 'decay_every': 7, 'decay_factor': 0.5}
  assert identity(cosine | steps) == identity(cosine)
  assert identity(cosine | {'schedule': 'cosine'}) == identity(cosine)
  assert identity(named | {'decay_factor': 0.5}) != identity(named)
  cosine = named | {'schedule': 'cosine'}
  assert identity(cosine | steps) == identity(cosine) != identity(named)
  warm = {'distill_temperature': 2.0}
  assert identity(named | warm) == identity(named)
  distilled = named | {'distill': 0.5}
  assert identity(distilled | warm) != identity(distilled) != identity(named)
  # Options have defaults too. A log may contain options that no longer exist.
  ttq = named | {'quantizer': 'ttq'}
  full = ttq | {'method': {'threshold': 0.05}}
  assert identity(full) == identity(ttq)
  other = ttq | {'method': {'threshold': 0.1}}
  old = ttq | {'method': {'forgotten': 1}}
  assert len({identity(c) for c in (ttq, other, old)}) == 3


def ste_config():
  config = default_config()
  config.update(estimator='ste', quantizer='dorefa', optimizer='adam')
  return config


def test_identity_ste_ignores_keys_of_phi():
  """Runs three steps, which must not depend on keys of learned rules."""

  def run_steps(**changes):
    config = ste_config()
    config.update(changes)
    assert identity(config.to_dict()) == identity(ste_config().to_dict())

    def loss_fn(params, model_state, batch, rng):
      return jnp.sum(batch * params['kernel'] ** 3), (model_state, {})

    train = tiny.step_of(config, loss_fn, steps_per_epoch=2)
    kernel = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    state = train.init(jax.random.key(0), {'kernel': kernel}, {}, kernel)
    for _ in range(3):
      state, _ = train.step(state, kernel + 2)
    return np.asarray(state.params['kernel'])

  np.testing.assert_array_equal(
    run_steps(
      phi_cotangent='estimator',
      meta_learning_rate=1.0,
      meta_optimizer='sgd',
      meta_decay_every=1,
      meta_every=2,
      meta_stop=1,
    ),
    run_steps(),
  )


@pytest.mark.parametrize('table', TABLES)
def test_unread_keys_entry_reads_exactly_declared_keys(table):
  """Tests that a key has an effect only for the entries that declare it."""
  entries = TABLES[table]
  declared = set(itertools.chain(*(e.reads for e in entries.values())))
  assert declared <= set(KEYS)
  for name in entries:
    config = default_config().to_dict() | {table: name}
    # Entries of two tables may read the same key.
    chosen = [TABLES[other][config[other]].reads for other in TABLES]
    read = set(itertools.chain(*chosen))
    assert declared & set(unread_keys(config)) == declared - read


@pytest.mark.parametrize('table', TABLES)
def test_builder_undeclared_key_is_not_available(table):
  """Tests that a builder that reads an undeclared key fails at once."""
  from experiments.build.key import subset

  config = default_config()
  for entry in TABLES[table].values():
    keys = subset(config, entry.reads)
    for name in set(KEYS) - set(entry.reads):
      with pytest.raises(AttributeError):
        getattr(keys, name)


def test_without_places_keeps_file_names_and_removes_folders():
  config = {'pretrained': '/a/base.pth', 'data_dir': '/data', 'seed': 3}
  assert fingerprint.without_places(config) == {
    'pretrained': 'base.pth',
    'seed': 3,
  }
  assert fingerprint.without_folders(config) == {
    'pretrained': 'base.pth',
    'data_dir': 'data',
    'seed': 3,
  }


@pytest.mark.parametrize('table', TABLES)
def test_identity_undeclared_name_distinguishes_runs(table):
  """Uses a name that is not declared, as in runs of another branch."""
  config = default_config().to_dict()
  gone = config | {table: 'gone'}
  assert identity(gone) != identity(config)
  assert identity(gone | {'learning_rate': 1.0}) != identity(gone)


def test_recorded_config_unknown_key_raises_and_missing_key_has_default():
  assert recorded_config({'bits': 2}, 'x').hidden == default_config().hidden
  with pytest.raises(InvalidError, match=r"log has .*'activations'.*version"):
    recorded_config({'activations': 'sign'}, 'log')
