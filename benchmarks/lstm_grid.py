"""Measures how far the factor of LSTMFC on a grid is from that per weight.

  python -m benchmarks.lstm_grid [--quick] [--data FILE] [--json FILE]

A language model of 1 bit trains with an LSTM per weight
(`experiments/studies/lstm_width.py`). LSTMs on grids read the same φ and the
same W̃ in every step, and keep their own memories.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mq_jax
from benchmarks import cases, table
from experiments.studies import lstm_width
from experiments.training.train import make_pipeline
from mq_jax import selection
from mq_jax.estimators.base import Leaves
from mq_jax.late_update import signals_of

QUICK = {'steps': [1, 3], 'hidden': 2}


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--data', default='', help='text; default: the study')
  options.add_argument('--hidden', type=int, default=16)
  options.add_argument(
    '--points', type=int, nargs='+', default=[4, 8, lstm_width.GRID_POINTS]
  )
  options.add_argument(
    '--steps', type=int, nargs='+', default=[1, 50, 100, 200, 400]
  )
  args = table.parse(options, QUICK)
  config = lstm_width.get_study().settings['ste']
  if args.data:
    config.data = args.data
  # A path is of no interest to readers, and nothing is timed.
  del args.data, args.rounds
  batch = make_pipeline(config).train
  at = cases.text_problem(config, config.batch_size)
  rules = at.rules(mq_jax.bwn())
  exact, *on_grids = (
    mq_jax.lstm_fc(hidden=args.hidden, init='identity', grid_points=points)
    for points in (0, *args.points)
  )
  train = mq_jax.make_train_step(
    at.loss_fn,
    rules,
    exact,
    refine=optax.scale_by_adam(),
    learning_rate=config.learning_rate,
  )
  state = train.init(jax.random.key(0), at.params, at.model_state, batch(0, 0))
  selected = selection.select(at.params, rules)
  weights = signals_of(selected, state).w_tilde
  memories = [e.init_state(jax.random.key(0), weights) for e in on_grids]

  @jax.jit
  def compare(state: mq_jax.State, memories: Any) -> tuple[Any, Any]:
    of_each, _ = _factor(exact, selected, state, state.estimator_state)
    results = [
      _factor(estimator, selected, state, memory)
      for estimator, memory in zip(on_grids, memories, strict=True)
    ]
    errors = [
      jnp.max(jnp.abs(_vector(factor) - _vector(of_each)))
      for factor, _ in results
    ]
    vector = _vector(of_each)
    return (jnp.mean(vector), jnp.std(vector), errors), [m for _, m in results]

  step_fn = jax.jit(train.step_fn)
  rows = []
  for step in range(1, max(args.steps) + 1):
    numbers, memories = compare(state, memories)
    state, _ = step_fn(state, batch(0, step))
    if step in args.steps:
      rows.append(_row(step, args.points, *numbers))
  table.show(
    f'Factor of an LSTM of {args.hidden} units: the largest error on a grid',
    rows,
    args,
    f'{config.network}, width {config.embed_dim}, {config.depth} blocks, bwn,'
    ' one seed. Mean and standard deviation of the factor per weight, over all'
    ' weights.',
  )


def _factor(
  estimator: mq_jax.GradientEstimator,
  selected: Any,
  state: mq_jax.State,
  memory: Any,
) -> tuple[Leaves, Any]:
  """Returns the factor of each weight: the estimate for gradients of 1."""
  signals = signals_of(selected, state)
  ones = jax.tree.map(jnp.ones_like, signals.w_tilde)
  return estimator.apply(
    state.phi, signals._replace(g_hat=ones, g_ste=ones), memory
  )


def _vector(factors: Leaves) -> jax.Array:
  return jnp.concatenate([jnp.ravel(leaf) for leaf in factors.values()])


def _row(
  step: int,
  points: Sequence[int],
  mean: jax.Array,
  std: jax.Array,
  errors: Sequence[jax.Array],
) -> table.Row:
  row: table.Row = {
    'step': step,
    'mean': f'{float(mean):.3f}',
    'std': f'{float(std):.1e}',
  }
  return row | {
    f'error, {count} points': f'{float(error):.1e}'
    for count, error in zip(points, errors, strict=True)
  }


if __name__ == '__main__':
  main()
