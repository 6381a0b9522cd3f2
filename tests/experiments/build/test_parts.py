"""Tests the parts of a train step that a configuration names."""

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.build.parts import make_parts
from mq_jax import models, selection
from mq_jax.estimators import wrappers
from tests.experiments import tiny


def test_post_update_reapply_puts_loss_one_move_ahead():
  post_update = make_parts(tiny.config(reapply=True), 1).step_arguments[
    'post_update'
  ]
  params = {'kernel': jnp.zeros((1, 1)), 'bias': jnp.zeros(1)}
  weight, state = 0.0, post_update.init(params)
  for move in (0.5, -0.25, 1.0):
    moves = {'kernel': jnp.full((1, 1), move), 'bias': jnp.full(1, move)}
    updates, state = post_update.update(moves, state, params)
    params = optax.apply_updates(params, updates)
    weight += move
    assert float(params['kernel'][0, 0]) == weight + move
    assert float(params['bias'][0]) == weight  # not quantized


def test_rules_float_layers_are_not_quantized():
  config = tiny.config(float_layers=r'head/kernel|.*/shortcut/kernel')
  shapes = jax.eval_shape(
    lambda: models.resnet8().init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )
  )['params']
  chosen = set(selection.select(shapes, make_parts(config, 1).rules))
  everything = set(selection.select(shapes, make_parts(tiny.config(), 1).rules))
  assert everything - chosen == {
    'head/kernel',
    'stage2/block0/shortcut/kernel',
    'stage3/block0/shortcut/kernel',
  }


@pytest.mark.parametrize(
  ('values', 'state'),
  [
    ({'estimator': 'multi_fc', 'slim': True}, wrappers.SlimState),
    ({'estimator': 'feature_fc'}, dict),
    ({'estimator': 'fc_grad', 'per_layer': True}, dict),
    (
      {'estimator': 'lstm_fc', 'slim': True, 'per_layer': True},
      wrappers.SlimState,
    ),
  ],
)
def test_estimator_by_name_has_its_state(values, state):
  parts = make_parts(tiny.config(**values), steps_per_epoch=5)
  estimator = parts.step_arguments['estimator']
  w = {'a': jnp.ones((3, 3, 1, 2))}
  assert isinstance(estimator.init_state(jax.random.key(0), w), state)
