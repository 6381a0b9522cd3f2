"""A small regression problem and a smooth quantizer, shared by tests."""

import jax
import jax.numpy as jnp

import mq_jax

PARAMS_KEY, DATA_KEY = jax.random.split(jax.random.key(7))


def params():
  keys = jax.random.split(PARAMS_KEY, 3)
  return {
    'first': {
      'kernel': 0.3 * jax.random.normal(keys[0], (4, 6)),
      'bias': 0.1 * jax.random.normal(keys[1], (6,)),
    },
    'last': {'kernel': 0.3 * jax.random.normal(keys[2], (6, 1))},
  }


def batches(count):
  """Yields `count` different batches `(x, y)`."""
  for index in range(count):
    x = jax.random.normal(jax.random.fold_in(DATA_KEY, index), (16, 4))
    yield x, jnp.sin(x.sum(axis=1, keepdims=True))


def loss_fn(params, model_state, batch, rng):
  """Returns the mean squared error; the model state counts the calls."""
  del rng
  x, y = batch
  hidden = jnp.tanh(
    x @ params['first']['kernel'] + params['first']['bias'][None, :]
  )
  error = hidden @ params['last']['kernel'] - y
  new = {'seen': model_state['seen'] + 1, 'mean': jnp.mean(x)}
  return jnp.mean(error**2), (new, {'error': jnp.mean(jnp.abs(error))})


def model_state():
  return {'seen': jnp.zeros(()), 'mean': jnp.zeros(())}


def smooth():
  """Makes a quantizer that does not round: W~ = (tanh(W) + 1)/2, W^ = 2 W~ - 1.

  Its table of levels has one value per weight. The loss is therefore smooth in
  W, and `calibrate` after `straight_through` is the exact derivative.
  """

  def codes(w_tilde, variables):
    del variables
    index = jnp.arange(w_tilde.size, dtype=jnp.uint16).reshape(w_tilde.shape)
    return index, 2 * w_tilde.ravel() - 1

  return mq_jax.dorefa()._replace(
    preprocess=lambda w, variables: (jnp.tanh(w) + 1) / 2,
    codes=codes,
    straight_through=lambda g_hat, w_tilde, variables: g_hat,
    calibrate=lambda w, g, variables: g * (1 - jnp.tanh(w) ** 2),
  )


def make(quantizer=None, estimator=None, **options):
  """Makes the train step of this problem."""
  return mq_jax.make_train_step(
    loss_fn,
    quantizer=quantizer or mq_jax.dorefa(),
    estimator=estimator or mq_jax.multi_fc(hidden=5),
    **{'learning_rate': 0.1} | options,
  )


def start(train, seed=0):
  """Returns the state after `init` on batch 0."""
  return train.init(
    jax.random.key(seed), params(), model_state(), next(batches(1))
  )
