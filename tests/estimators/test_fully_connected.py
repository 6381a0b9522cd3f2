"""Tests FCGrad and MultiFC, and properties of all estimators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from tests.estimators import signals


def test_fc_grad_and_multi_fc_one_layer_equal_equations_9_and_10():
  g_hat, w_tilde, _ = signals.gradients()
  phi = ({'kernel': jnp.array([[-0.7]])},)
  signals.assert_close(
    signals.apply(mq_jax.fc_grad(layers=1), phi)[0],
    {path: -0.7 * g for path, g in g_hat.items()},
    1e-6,
  )
  signals.assert_close(
    signals.apply(mq_jax.multi_fc(layers=1), phi)[0],
    {path: -0.7 * g * w_tilde[path] for path, g in g_hat.items()},
    1e-6,
  )


@pytest.mark.parametrize(
  'estimator',
  [
    mq_jax.fc_grad(layers=1, init='identity'),
    mq_jax.fc_grad(layers=2, init='identity'),
    mq_jax.fc_grad(layers=3, bias=True, init='identity'),
    mq_jax.multi_fc(init='identity'),
    mq_jax.multi_fc(activation='relu', init='identity'),
    mq_jax.multi_fc(activation='tanh', bias=True, layers=3, init='identity'),
    mq_jax.lstm_fc(hidden=5, init='identity'),
  ],
)
def test_identity_init_equals_straight_through_rule(x64, estimator):
  g_hat, w_tilde, g_ste = signals.gradients()
  phi = estimator.init(jax.random.key(5), w_tilde)
  g_tilde, _ = signals.apply(estimator, phi)
  signals.assert_close(g_tilde, g_ste, 1e-14)
  # The gradient is not zero, so training can leave this point.
  gradient = jax.grad(
    lambda phi: sum(
      jnp.sum(x * g_hat[p]) for p, x in signals.apply(estimator, phi)[0].items()
    )
  )(phi)
  assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_factor_of_linear_stack_is_slope_and_offset():
  g_hat, w_tilde, _ = signals.gradients()
  estimator = mq_jax.multi_fc(hidden=4, layers=3, bias=True)
  phi = estimator.init(jax.random.key(0), w_tilde)
  factor = estimator.factor(phi)
  signals.assert_close(
    signals.apply(estimator, phi)[0],
    {
      path: g * (factor['s'] * w_tilde[path] + factor['offset'])
      for path, g in g_hat.items()
    },
    1e-5,
  )
  plain = mq_jax.fc_grad()
  assert set(plain.factor(plain.init(jax.random.key(0), g_hat))) == {'s'}
  for other in (
    mq_jax.multi_fc(activation='relu'),
    mq_jax.lstm_fc(hidden=2),
    mq_jax.ste(),
  ):
    assert other.factor(other.init(jax.random.key(0), w_tilde)) == {}


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: mq_jax.multi_fc(activation='gelu'), "activation='gelu'"),
    (lambda: mq_jax.fc_grad(hidden=0), 'hidden=0'),
    (lambda: mq_jax.multi_fc(layers=1.5), 'layers=1.5'),
    (lambda: mq_jax.lstm_fc(hidden=-3), 'hidden=-3'),
    (lambda: mq_jax.lstm_fc(init='zeros'), "init='zeros'"),
    (
      lambda: mq_jax.fc_grad(activation='tanh', init='identity'),
      "init='identity' needs activation=None",
    ),
  ],
)
def test_estimators_bad_argument_raises(make, message):
  with pytest.raises(ValueError, match=message):
    make()
