"""The compared train steps: full precision, and each estimator."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses
from experiments.build.networks import DTYPES, NETWORKS, make_network
from experiments.build.schema import default_config
from experiments.data.text import VOCABULARY

FULL, STE = 'full precision', 'ste'
RATE = 1e-3  # step size of full precision
# Each takes the width as `hidden`.
ESTIMATORS: dict[str, Callable[..., mq_jax.GradientEstimator]] = {
  STE: lambda hidden: mq_jax.ste(),
  'fc_grad': mq_jax.fc_grad,
  'multi_fc': mq_jax.multi_fc,
  'multi_fc, 3 layers': partial(mq_jax.multi_fc, layers=3),
  'multi_fc, relu': partial(mq_jax.multi_fc, activation='relu'),
  'multi_fc, 3 layers, relu': partial(
    mq_jax.multi_fc, layers=3, activation='relu'
  ),
  'multi_fc, tanh': partial(mq_jax.multi_fc, activation='tanh'),
  'multi_fc, 3 layers, tanh': partial(
    mq_jax.multi_fc, layers=3, activation='tanh'
  ),
  'lstm_fc': mq_jax.lstm_fc,
  'lstm_fc, bfloat16 memory': partial(
    mq_jax.lstm_fc, memory_dtype=jnp.bfloat16
  ),
  'lstm_fc, 32 points': partial(mq_jax.lstm_fc, grid_points=32),
  'multi_fc, tanh, slim': lambda hidden: mq_jax.slim(
    mq_jax.multi_fc(hidden=hidden, activation='tanh')
  ),
  'lstm_fc, slim': lambda hidden: mq_jax.slim(mq_jax.lstm_fc(hidden=hidden)),
}
# Their stacks reduce to two or three scalars at any width.
COLLAPSED = (
  'fc_grad',
  'multi_fc',
  'multi_fc, 3 layers',
  'multi_fc, relu',
  'multi_fc, 3 layers, relu',
)


class Case(NamedTuple):
  """One row of a table.

  Attributes:
    name: Name in the table.
    step_fn: `(state, batch) -> (state, metrics)`, pure.
    state: State before the first step, on the host.
    batch: Batch of every step.
  """

  name: str
  step_fn: Callable[[Any, Any], tuple[Any, Any]]
  state: Any
  batch: Any


class Problem(NamedTuple):
  """A network's loss and initial weights, and a batch of random examples.

  Attributes:
    loss_fn: Loss as `make_train_step` takes it.
    params: Initial parameters.
    model_state: Initial batch statistics. A network without them has `{}`.
    batch: Random 'input' and 'label'.
    stacked: `Network.stacked` of a declared network.
  """

  loss_fn: Callable[..., Any]
  params: Any
  model_state: Any
  batch: dict[str, jax.Array]
  stacked: str = ''

  def rules(self, quantizer: mq_jax.Quantizer) -> mq_jax.selection.Rules:
    """Returns the rules that quantize each layer of the network."""
    if not self.stacked:
      return quantizer
    return [(self.stacked, mq_jax.per(quantizer, axes=0))]


def problem(
  network: Any,
  batch_size: int,
  dtype: str,
  image_size: int = 32,
  classes: int = 10,
  **sizes: int,
) -> Problem:
  """Returns a problem of random weights and examples.

  Args:
    network: Linen module for images, or the name of a declared network.
    batch_size: Number of images or pieces of text.
    dtype: Dtype of the computation.
    image_size: Both sides of the images.
    classes: Number of classes of images.
    **sizes: Further keys of the configuration of a declared network.
  """
  net, stacked, config = network, '', default_config()
  is_text = False
  if isinstance(network, str):
    is_text = NETWORKS[network].inputs == 'tokens'
    stacked = NETWORKS[network].stacked
    config.update(network=network, dtype=dtype, **sizes)
    net = make_network(config, VOCABULARY if is_text else classes)
  keys = jax.random.split(jax.random.key(0), 3)
  if is_text:
    shape = (batch_size, config.context + 1)
    tokens = jax.random.randint(keys[0], shape, 0, VOCABULARY)
    batch = {'input': tokens[:, :-1], 'label': tokens[:, 1:]}
  else:
    images = (batch_size, image_size, image_size, 3)
    batch = {
      'input': jax.random.normal(keys[0], images, DTYPES[dtype]),
      'label': jax.random.randint(keys[1], (batch_size,), 0, classes),
    }
  variables = jax.jit(net.init, static_argnames='train')(
    keys[2], batch['input'][:2], train=False
  )
  return Problem(
    losses.make_loss(net),
    variables['params'],
    variables.get('batch_stats', {}),
    batch,
    stacked,
  )


def problem_of(args: argparse.Namespace) -> Problem:
  """Returns the problem that the options of a benchmark name."""
  return problem(
    args.network, args.batch_size, args.dtype, args.image_size, args.classes
  )


def text_problem(config: ConfigDict, batch_size: int) -> Problem:
  """Returns the problem of the language model of a configuration."""
  sizes = {name: config[name] for name in ('embed_dim', 'depth', 'context')}
  return problem(config.network, batch_size, config.dtype, **sizes)


def full_precision(at: Problem) -> Case:
  """Returns plain SGD, without this library."""

  def step_fn(state: Any, batch: Any) -> tuple[Any, Any]:
    params, model_state = state
    (loss, (model_state, metrics)), grads = jax.value_and_grad(
      at.loss_fn, has_aux=True
    )(params, model_state, batch, jax.random.key(0))
    params = jax.tree.map(lambda w, g: w - RATE * g, params, grads)
    return (params, model_state), {**metrics, 'loss': loss}

  return Case(
    FULL, step_fn, jax.device_get((at.params, at.model_state)), at.batch
  )


def with_estimator(
  at: Problem, name: str, estimator: mq_jax.GradientEstimator
) -> Case:
  """Returns one estimator under SGD, with dorefa at 1 bit in every layer."""
  rules = at.rules(mq_jax.dorefa())
  train = mq_jax.make_train_step(at.loss_fn, rules, estimator)
  state = train.init(jax.random.key(1), at.params, at.model_state, at.batch)
  return Case(name, train.step_fn, jax.device_get(state), at.batch)


def quantized(at: Problem, name: str, hidden: int) -> Case:
  """Returns one estimator of the paper by name (`with_estimator`)."""
  return with_estimator(at, name, ESTIMATORS[name](hidden=hidden))


def all_cases(at: Problem, names: list[str] | None, hidden: int) -> list[Case]:
  """Returns full precision, STE, and the named estimators (None: all)."""
  chosen = [name for name in ESTIMATORS if names is None or name in names]
  chosen = [STE, *(name for name in chosen if name != STE)]
  return [full_precision(at), *(quantized(at, name, hidden) for name in chosen)]


def weights(at: Any) -> int:
  """Returns the number of quantized weights of a problem or a state."""
  return sum(leaf.size for leaf in jax.tree.leaves(at.params) if leaf.ndim >= 2)
