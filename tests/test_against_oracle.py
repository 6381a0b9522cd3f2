"""Compares complete iterations of the library with an independent NumPy oracle.

`tests/oracle.py` was written from the paper by someone who had not read the
library. In float64, for every estimator, quantizer and optimizer, the test
compares W', phi', both g_hat's and everything else that a step returns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import mq_jax
from mq_jax.estimators import lstm_cell
from tests import oracle

STEPS, GAMMA, HIDDEN = 3, 0.01, 4
# Adam divides gradients near zero by their own size and so magnifies rounding
# errors; a smaller step keeps them below the tolerance.
ALPHAS = {'sgd': 0.5, 'adam': 0.05, 'adam with decay': 0.05}


class Case(NamedTuple):
  """One component of the library and its counterpart in the oracle."""

  ours: object
  theirs: object


QUANTIZERS = {
  'dorefa1': Case(mq_jax.dorefa(1), oracle.dorefa(1)),
  'dorefa3': Case(mq_jax.dorefa(3, clip=0.6), oracle.dorefa(3, clip=0.6)),
  'bwn': Case(mq_jax.bwn(), oracle.bwn()),
  'bwn per channel': Case(
    mq_jax.per(mq_jax.bwn(scaled_gradient=False), axes=-1),
    oracle.bwn(True, scaled_gradient=False),
  ),
}
REFINEMENTS = {
  'sgd': Case(optax.identity(), oracle.sgd()),
  'adam': Case(optax.scale_by_adam(), oracle.adam()),
  'adam with decay': Case(
    optax.chain(optax.add_decayed_weights(5e-4), optax.scale_by_adam()),
    oracle.adam(weight_decay=5e-4),
  ),
}
ESTIMATORS = {
  'ste': Case(mq_jax.ste(), oracle.ste()),
  'fc_grad': Case(mq_jax.fc_grad(hidden=HIDDEN), oracle.fc_grad()),
  'fc_grad tanh bias': Case(
    mq_jax.fc_grad(hidden=HIDDEN, activation='tanh', bias=True),
    oracle.fc_grad('tanh'),
  ),
  'multi_fc': Case(mq_jax.multi_fc(hidden=HIDDEN), oracle.multi_fc()),
  'multi_fc relu 3': Case(
    mq_jax.multi_fc(hidden=HIDDEN, layers=3, activation='relu'),
    oracle.multi_fc('relu'),
  ),
  'multi_fc identity': Case(
    mq_jax.multi_fc(hidden=HIDDEN, init='identity'),
    oracle.multi_fc(use_ste=True),
  ),
  'lstm_fc': Case(mq_jax.lstm_fc(hidden=HIDDEN), oracle.lstm_fc(HIDDEN)),
  'lstm_fc no carry': Case(
    mq_jax.lstm_fc(hidden=HIDDEN, carry=False, init='identity'),
    oracle.lstm_fc(HIDDEN, carry=False, use_ste=True),
  ),
}
# Every estimator with every quantizer and both optimizers, and each other
# option once.
CASES = [
  *(
    (estimator, quantizer, refinement, 'ste')
    for estimator in ('ste', 'fc_grad', 'multi_fc', 'lstm_fc')
    for quantizer in ('dorefa1', 'bwn')
    for refinement in ('sgd', 'adam')
  ),
  ('fc_grad tanh bias', 'dorefa3', 'adam with decay', 'ste'),
  ('multi_fc relu 3', 'bwn per channel', 'adam', 'ste'),
  ('multi_fc identity', 'bwn', 'sgd', 'ste'),
  ('lstm_fc no carry', 'bwn per channel', 'adam with decay', 'ste'),
  ('fc_grad', 'dorefa3', 'sgd', 'estimator'),
  ('multi_fc identity', 'bwn', 'adam', 'estimator'),
  ('lstm_fc', 'dorefa1', 'sgd', 'estimator'),
]


def loss_fn(params, model_state, batch, rng):
  """Computes the loss of the oracle's network."""
  del rng

  def conv(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  x = conv(batch['image'], params['conv']['kernel'])
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  count = x.size // x.shape[-1]
  norm = model_state['norm']
  new_state = {
    'norm': {
      'mean': 0.9 * norm['mean'] + 0.1 * mean,
      'var': 0.9 * norm['var'] + 0.1 * var * count / (count - 1),
    }
  }

  def per_channel(vector):
    return vector[None, None, None, :]

  x = (x - per_channel(mean)) / per_channel(jnp.sqrt(var + 1e-5))
  x = x * per_channel(params['norm']['scale'])
  x = jnp.maximum(x + per_channel(params['norm']['bias']), 0)
  x = conv(x, params['shortcut']['kernel']).mean((1, 2))
  logits = x @ params['dense']['kernel'] + params['dense']['bias'][None, :]
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  return losses.mean(), (new_state, {})


def make_problem(rng):
  params = {
    'conv': {'kernel': 0.05 * rng.normal(size=(3, 3, 2, 4))},
    'norm': {'scale': rng.uniform(0.5, 1.5, 4), 'bias': rng.normal(size=4)},
    'shortcut': {'kernel': rng.normal(size=(1, 1, 4, 5))},
    'dense': {'kernel': rng.normal(size=(5, 3)), 'bias': rng.normal(size=3)},
  }
  model_state = {
    'norm': {'mean': rng.normal(size=4), 'var': rng.uniform(0.5, 2, 4)}
  }
  # The gradients of the logits add up to zero, so a row of one sign would have
  # a gradient of exactly zero. Adam would magnify its rounding errors.
  dense = params['dense']['kernel']
  dense[:, 0], dense[:, 1] = 0.3 + abs(dense[:, 0]), -0.3 - abs(dense[:, 1])
  batches = [
    {'image': rng.normal(size=(4, 5, 6, 2)), 'label': rng.integers(0, 3, 4)}
    for _ in range(STEPS + 1)
  ]
  return params, model_state, batches


def assert_close(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert a.dtype == jnp.float64
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
  ('estimator', 'quantizer', 'refinement', 'cotangent'), CASES
)
def test_step_each_combination_equals_oracle(
  x64, estimator, quantizer, refinement, cotangent
):
  params, model_state, batches = make_problem(np.random.default_rng(1))

  def schedule(step):
    return ALPHAS[refinement] * 0.5**step

  ours = mq_jax.make_train_step(
    loss_fn,
    QUANTIZERS[quantizer].ours,
    ESTIMATORS[estimator].ours,
    refine=REFINEMENTS[refinement].ours,
    learning_rate=schedule,
    meta_optimizer=optax.adam(GAMMA),
    phi_cotangent=cotangent,
  )
  state = ours.init(jax.random.key(0), params, model_state, batches[0])
  theirs = oracle.Config(
    quantizers=oracle.everywhere(QUANTIZERS[quantizer].theirs),
    estimator=ESTIMATORS[estimator].theirs,
    refine=REFINEMENTS[refinement].theirs,
    learning_rate=schedule,
    meta_learning_rate=GAMMA,
    phi_cotangent=cotangent,
  )
  phi = jax.tree.map(np.array, state.phi)
  gradient_of_phi = jax.jit(jax.grad(ours.phi_loss))
  expected = oracle.init(theirs, phi, params, model_state, batches[0])
  assert_close(state.params, params)
  assert_close(state.grads, expected.grads)
  for batch in batches[1:]:
    gradient = gradient_of_phi(state.phi, state, batch)
    state, metrics = ours.step(state, batch)
    expected, aux = oracle.step(theirs, expected, batch)
    np.testing.assert_allclose(metrics['loss'], aux.loss, rtol=1e-10)
    assert_close(gradient, aux.phi_grads)
    assert_close(state.params, expected.params)
    assert_close(ours.quantized(state), aux.w_hat)
    assert_close(state.grads, expected.grads)
    assert_close(state.model_state, expected.model_state)
    assert_close(state.phi, expected.phi)
    if estimator == 'lstm_fc':
      for mine, name in zip(
        lstm_cell.recall(state.estimator_state, None), 'hc', strict=True
      ):
        memory = expected.estimator_state
        other = np.concatenate(
          [getattr(memory[p], name) for p in sorted(memory)]
        )
        mine = mine.reshape(-1, HIDDEN)[: len(other)]
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-10)
  # The test is meaningful only if some weights crossed the threshold.
  if refinement == 'adam':
    start, end = oracle.quantized(theirs, params), aux.w_hat
    assert np.any(
      np.sign(start['conv']['kernel']) != np.sign(end['conv']['kernel'])
    )
