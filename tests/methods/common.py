"""Helpers for the tests of methods: training of one weight on a linear loss."""

import jax
import jax.numpy as jnp
import numpy as np

import mq_jax
from mq_jax.quantizers import dequantize
from tests import problem

SHAPE = (3, 2, 4)


def weight(seed=0, shape=SHAPE):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def values(quantizer, w, variables):
  """Returns Ŵ in NumPy."""
  w_tilde = quantizer.preprocess(w, variables)
  return np.asarray(dequantize(*quantizer.codes(w_tilde, variables)))


def linear(quantizer, w, g, steps, **options):
  """Returns the state after each step of training on the loss Σ g Ŵ."""

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(batch * params['layer']['kernel']), (model_state, {})

  train = mq_jax.make_train_step(
    loss_fn, quantizer, mq_jax.ste(), **({'learning_rate': 0.1} | options)
  )
  params = {'layer': {'kernel': w}}
  state = train.init(jax.random.key(0), params, {}, g)
  states = [jax.tree.map(np.asarray, state._replace(key=0))]
  for _ in range(steps):
    state, _ = train.step(state, g)
    states.append(jax.tree.map(np.asarray, state._replace(key=0)))
  return states


def kernel(state):
  return state.params['layer']['kernel']


def check_training_stays_finite(quantizer):
  """Trains for four steps, which must move the weights."""
  train = problem.make(quantizer, mq_jax.ste())
  state = problem.start(train)
  before = state.params['first']['kernel'].copy()
  for batch in problem.batches(4):
    state, metrics = train.step(state, batch)
  for leaf in jax.tree.leaves((state.params, metrics)):
    assert np.all(np.isfinite(leaf))
  assert np.any(state.params['first']['kernel'] != before)
