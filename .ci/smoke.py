"""Trains a small network of 1 bit, to test an installed mq_jax."""

import importlib.metadata
import sys

import jax
import jax.numpy as jnp
import optax

import mq_jax


def loss_fn(
  params: dict, model_state: dict, batch: dict, rng: jax.Array
) -> tuple[jax.Array, tuple[dict, dict]]:
  """Returns the mean squared error of a network of two layers."""
  del rng
  hidden = jax.nn.relu(batch['x'] @ params['in'])
  error = hidden @ params['out'] - batch['y']
  return jnp.mean(error**2), (model_state, {})


def main() -> None:
  """Takes 20 steps, and prints the versions and the losses.

  Raises:
    AssertionError: mq_jax is not the installed one, or it does not train.
  """
  assert mq_jax.__file__.startswith(sys.prefix), mq_jax.__file__
  assert mq_jax.__version__ == importlib.metadata.version('mq_jax')
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (64, 8))
  batch = {'x': x, 'y': jnp.abs(x[:, :1])}
  params = {
    'in': jax.random.normal(keys[1], (8, 32)),
    'out': jax.random.normal(keys[2], (32, 1)),
  }
  train = mq_jax.make_train_step(
    loss_fn,
    quantizer=[('in', mq_jax.bwn())],
    learning_rate=1e-2,
    estimator=mq_jax.multi_fc(init='identity'),
    refine=optax.scale_by_adam(),
  )
  state = train.init(keys[3], params, {}, batch)
  losses = []
  for _ in range(20):
    state, metrics = train.step(state, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < losses[0] / 2, losses
  levels = jnp.unique(train.quantized(state)['in'])
  assert levels.shape == (2,), levels
  print(
    f'Python {sys.version.split()[0]}, jax {jax.__version__},'
    f' mq_jax {mq_jax.__version__}: loss {losses[0]:.3f} to {losses[-1]:.3f}'
  )


if __name__ == '__main__':
  main()
