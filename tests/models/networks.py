"""Makes variables, records calls and trains, for the tests of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import mq_jax
from mq_jax import activations
from mq_jax.activations import Activation

# A weight quantizer and an activation for each number of bits.
SAME_BITS = {
  1: (mq_jax.bwn(), Activation(activations.bi_real_sign, signed=True)),
  2: (mq_jax.dorefa(2), Activation(activations.pact(2), start=2.0)),
  4: (mq_jax.dorefa(4), Activation(activations.lsq_activation(4), start=0.1)),
}
# Each activation and its largest number of levels.
LEVELS = [
  (Activation(activations.sign, signed=True), 2),
  (Activation(activations.bi_real_sign, signed=True), 2),
  (Activation(activations.dorefa_activation(1)), 2),
  (Activation(activations.dorefa_activation(3)), 8),
  (Activation(activations.hwgq(2)), 4),
  (Activation(activations.pact(2), start=1.5), 4),
  (Activation(activations.lsq_activation(4), start=0.1), 16),
]
NO_ACTIVATIONS = [activations.sign, (activations.sign, None, True), 'sign', 2]


def images(shape=(3, 8, 8, 3), dtype=np.float32):
  return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def random_like(tree, seed=0):
  """Returns random values: He-normal kernels, positive vectors and scalars."""
  rng = np.random.default_rng(seed)

  def leaf(like):
    if len(like.shape) <= 1:
      return jnp.asarray(rng.uniform(0.5, 1.5, like.shape), like.dtype)
    deviation = np.sqrt(2 / np.prod(like.shape[:-1]))
    return jnp.asarray(rng.normal(0, deviation, like.shape), like.dtype)

  return jax.tree.map(leaf, tree)


def shapes(net, x):
  """Returns the shapes of the variables; does not compile `init`."""
  return jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False),
    x,
  )


def start(net, x):
  """Returns random variables, including batch statistics."""
  return random_like(shapes(net, x))


def named(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def calls(net, variables, x, train=False):
  """Returns the input and the output of each submodule, by path."""

  @jax.jit
  def run(variables, x):
    found = {}

    def record(function, args, kwargs, context):
      y = function(*args, **kwargs)
      if context.method_name == '__call__':
        found['/'.join(context.module.path)] = args[0], y
      return y

    with nn.intercept_methods(record):
      net.apply(variables, x, train=train, mutable=['batch_stats'])
    return found

  return run(variables, x)


def loss_after_a_step(net, quantizer, x):
  """Returns the loss after one step, and the largest change of each leaf."""
  variables = start(net, x)

  def loss_fn(params, stats, batch, rng):
    logits, new = net.apply(
      {'params': params, 'batch_stats': stats},
      batch,
      train=True,
      mutable=['batch_stats'],
    )
    loss = -jnp.mean(jax.nn.log_softmax(logits)[:, 1])
    return loss, (new['batch_stats'], {})

  train = mq_jax.make_train_step(
    loss_fn,
    quantizer,
    mq_jax.ste(),
    refine=optax.scale_by_adam(),
    learning_rate=1e-2,
  )
  state = train.init(
    jax.random.key(0), variables['params'], variables['batch_stats'], x
  )
  state, metrics = train.step(state, x)
  moves = jax.tree.map(
    lambda old, new: float(jnp.max(jnp.abs(old - new))),
    variables['params'],
    state.params,
  )
  assert metrics['finite']
  return float(metrics['loss']), named(moves)
