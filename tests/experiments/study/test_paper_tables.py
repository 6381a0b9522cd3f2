"""Runs every row of the papers' tables for two steps, in small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from experiments.build.fingerprint import identity
from experiments.build.losses import LOSSES, make_loss
from experiments.build.parts import make_parts
from experiments.study import spec
from tests.experiments import tiny

TABLES = (
  *('table1', 'table2', 'table3', 'table4', 'table5', 'table6'),
  *('rebuttal', 'slb', 'psgd'),
)
# Rows that differ in these keys alone run the same code in small.
SAME = (
  *('network', 'dataset', 'width', 'padding', 'head_norm', 'dtype'),
  *('activation_quantizer', 'activation_bits', 'activation_start'),
  *('bits', 'hidden', 'weight_decay', 'learning_rate', 'meta_learning_rate'),
  *('meta_decay_every',),
  *('epochs', 'decay_every', 'decay_at', 'decay_factor', 'pretrain_epochs'),
  *('batch_size', 'augment', 'recalibrate', 'float_layers', 'loss'),
)


def rows():
  """Returns one setting of every group of rows, by study and name."""
  found = {}
  for table in TABLES:
    for name, config in spec.load_all()[table].settings.items():
      key = identity(config.to_dict(), without=SAME)
      found.setdefault(key, (f'{table}: {name}', config))
  return dict(found.values())


@pytest.fixture(scope='module')
def problem():
  """Returns the loss of a network of one layer, its weights and a batch."""
  net, rng = tiny.Net(10), np.random.default_rng(0)
  batch = {
    'input': jnp.asarray(rng.normal(size=(4, 32, 32, 3)), jnp.float32),
    'label': jnp.arange(4, dtype=jnp.int32),
  }
  weights = jax.tree.map(jnp.asarray, tiny.variables(net))
  loss_fn = make_loss(net, LOSSES['cross_entropy'])
  return loss_fn, weights['params'], weights['batch_stats'], batch


def test_every_row_of_the_papers_trains_for_two_steps(problem):
  loss_fn, params, batch_stats, batch = problem
  settings = rows()
  assert len(settings) > 30
  for name, config in settings.items():
    config.update(epochs=2, decay_at='', float_layers='')
    parts = make_parts(config, steps_per_epoch=2)
    train = mq_jax.make_train_step(loss_fn, **parts.step_arguments)
    # Compiling every setting would take minutes.
    with jax.disable_jit():
      first = state = train.init(jax.random.key(0), params, batch_stats, batch)
      for _ in range(2):
        state, metrics = train.step_fn(state, batch)
        assert bool(metrics['finite']), name
    assert int(state.step) == 2
    before, after = (s.params['head']['kernel'] for s in (first, state))
    assert np.any(np.asarray(after) != np.asarray(before)), name
