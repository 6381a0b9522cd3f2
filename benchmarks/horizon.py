r"""Compares objectives of φ: what lets a learned step size grow.

  python -m benchmarks.horizon --pretrained FILE [--data_dir DIR] [--json FILE]

The paper trains φ to reduce the loss right after one update. Here M_φ is one
factor s of the gradient, from s = 1, for the whole network or per layer, under
SGD at 1 bit in every layer (dorefa). The objectives are

  1 update      the loss after one update, on the next batch: the paper's
  held out      the same loss, on batches of images that train no weight
  k updates     the loss after the last k updates, on the next batch
  frozen        s is constant: the mean over the second half of a run with
                another seed and the longest horizon
  fixed         s = 1: the straight-through rule

For k updates, dL/dφ = −α Σᵢ ⟨∂L/∂W, ∂gᵢ(φ)/∂φ⟩ over the last k gradients gᵢ,
which are constants except for M_φ. With k = 1 it is the paper's gradient. φ is
constant in the first k − 1 updates.
"""

import functools
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import mq_jax
from benchmarks import table
from experiments.build import losses
from experiments.build.networks import make_network
from experiments.build.schema import default_config
from experiments.common.console import counted
from experiments.data.pipeline import Pipeline
from experiments.records import torch_weights
from experiments.training.train import make_pipeline
from mq_jax import estimators, selection
from mq_jax.late_update import weight_gradient

QUICK: dict[str, Any] = {
  'steps': 4,
  'rates': [0.1],
  'horizons': [2],
  'held_out': 2,
}
BATCH = 128
FIXED = 'fixed'
FROZEN = 'frozen'
ON_HELD_OUT = 'held out'
QUANTIZER = mq_jax.dorefa()


class Problem(NamedTuple):
  """Where all runs start, and what they see.

  Attributes:
    pipeline: Batches. `evaluate` has held-out training images: one half for
      φ, the other half for the accuracy.
    net: The network.
    params: Weights of the base model.
    batch_stats: Batch statistics of the base model.
    steps: Number of updates of a run.
    held_out: Number of held-out batches in each half.
  """

  pipeline: Pipeline
  net: Any
  params: Any
  batch_stats: Any
  steps: int
  held_out: int


class Outcome(NamedTuple):
  """The end of one run.

  Attributes:
    phi: φ, in the mean over the second half of the run.
    factors: s of each layer, or of the network, with this φ.
    loss: Mean training loss over the second half of the run.
    accuracy: Accuracy on held-out images after the run, in percent.
  """

  phi: Any
  factors: list[float]
  loss: float
  accuracy: float


def horizon_gradient(
  estimator: mq_jax.GradientEstimator,
  rate: float,
  phi: Any,
  earlier: Sequence[mq_jax.State],
  newest: mq_jax.State,
) -> Any:
  """Returns the gradient of φ for the loss after the last updates.

  Args:
    estimator: M_φ.
    rate: α of the updates, which are those of SGD.
    phi: φ.
    earlier: States before these updates, with their pending gradients.
    newest: State after them, with the gradients of the loss there.
  """
  selected = selection.select(newest.params, QUANTIZER)
  cotangent, _ = weight_gradient(mq_jax.ste(), selected, (), newest)

  def loss_of_moves(phi: Any) -> jax.Array:
    gradients = [
      weight_gradient(estimator, selected, phi, state)[0] for state in earlier
    ]
    return -rate * sum(
      optax.tree.vdot(
        selection.only(selected, cotangent), selection.only(selected, g)
      )
      for g in gradients
    )

  return jax.grad(loss_of_moves)(phi)


def run(
  problem: Problem,
  estimator: mq_jax.GradientEstimator,
  objective: str | int,
  rate: float,
  gamma: float,
  seed: int = 0,
  phi: Any = None,
) -> Outcome:
  """Trains with one objective of φ.

  Args:
    problem: The `Problem`.
    estimator: M_φ, which multiplies gradients by factors.
    objective: `ON_HELD_OUT`, `FIXED`, or a number of updates.
    rate: α.
    gamma: Step size of φ, under Adam.
    seed: Seed of the batches.
    phi: First φ; None: that of the estimator.
  """
  train = mq_jax.make_train_step(
    losses.make_loss(problem.net),
    QUANTIZER,
    estimator,
    learning_rate=rate,
    meta_optimizer=optax.set_to_zero(),  # `run` itself updates φ.
  )
  batch = functools.partial(problem.pipeline.train, seed)
  state = train.init(
    jax.random.key(seed), problem.params, problem.batch_stats, batch(0)
  )
  if phi is not None:
    state = state._replace(phi=phi)
  meta_optimizer = optax.adam(gamma)
  meta_state = meta_optimizer.init(state.phi)
  updates = objective if isinstance(objective, int) else 1
  earlier: deque[mq_jax.State] = deque(maxlen=updates)
  step = jax.jit(train.step_fn)
  on_held_out = jax.jit(jax.grad(train.phi_loss))
  after_updates = jax.jit(functools.partial(horizon_gradient, estimator, rate))
  phis, step_losses = [], []
  for count in range(1, problem.steps + 1):
    earlier.append(state)
    state, metrics = step(state, batch(count))
    gradient = None
    if objective == ON_HELD_OUT:
      held_out = problem.pipeline.evaluate.batch(
        count % problem.held_out, BATCH
      )
      gradient = on_held_out(state.phi, earlier[-1], held_out)
    elif isinstance(objective, int) and len(earlier) == updates:
      gradient = after_updates(state.phi, [*earlier], state)
    if gradient is not None:
      moves, meta_state = meta_optimizer.update(gradient, meta_state)
      state = state._replace(phi=optax.apply_updates(state.phi, moves))
    if 2 * count > problem.steps:
      phis.append(state.phi)
      step_losses.append(float(metrics['loss']))
  mean_phi = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *phis)
  return Outcome(
    phi=mean_phi,
    factors=[float(s) for s in estimator.factor(mean_phi).values()],
    loss=float(np.mean(step_losses)),
    accuracy=_accuracy(problem, train, state),
  )


def _accuracy(
  problem: Problem, train: mq_jax.TrainStep, state: mq_jax.State
) -> float:
  """Returns the accuracy on held-out images that no φ was trained on."""
  evaluate = jax.jit(losses.make_evaluation(problem.net))
  params = train.forward_params(state)
  right = [
    evaluate(
      params, state.model_state, problem.pipeline.evaluate.batch(index, BATCH)
    )['accuracy']
    for index in range(problem.held_out, 2 * problem.held_out)
  ]
  return 100 * float(sum(right)) / (BATCH * problem.held_out)


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--pretrained', required=True)
  options.add_argument('--network', default='resnet20')
  options.add_argument('--dataset', default='cifar10')
  options.add_argument('--data_dir', default='')
  options.add_argument('--steps', type=int, default=200)
  options.add_argument('--rates', type=float, nargs='+', default=[0.01, 0.1, 1])
  options.add_argument('--horizons', type=int, nargs='+', default=[5, 25])
  options.add_argument('--gamma', type=float, default=0.01)
  options.add_argument(
    '--held_out', type=int, default=39, help='held-out batches for φ'
  )
  args = table.parse(options, QUICK)
  config = default_config()
  config.update(
    network=args.network,
    dataset=args.dataset,
    data_dir=args.data_dir,
    batch_size=BATCH,
    holdout=2 * BATCH * args.held_out,
  )
  pipeline = make_pipeline(config)
  model = torch_weights.load_any(args.pretrained)
  problem = Problem(
    pipeline,
    make_network(config, len(pipeline.classes)),
    model.params,
    model.batch_stats,
    args.steps,
    args.held_out,
  )
  scalar = estimators.fc_grad(layers=1, init='identity')
  shapes = {'network': scalar, 'layer': estimators.per_layer(scalar)}
  rows = []
  for rate in args.rates:
    fixed = run(problem, estimators.ste(), FIXED, rate, args.gamma)
    rows.append(_row(rate, 'network', FIXED, fixed))
    for shape, estimator in shapes.items():
      for objective in (1, ON_HELD_OUT, *args.horizons):
        name = objective
        if isinstance(objective, int):
          name = counted(objective, 'update')
        outcome = run(problem, estimator, objective, rate, args.gamma)
        rows.append(_row(rate, shape, name, outcome))
      other = run(
        problem, estimator, max(args.horizons), rate, args.gamma, seed=1
      )
      frozen = run(problem, estimator, FIXED, rate, args.gamma, phi=other.phi)
      rows.append(_row(rate, shape, FROZEN, frozen))
  del args.data_dir, args.pretrained  # Paths are of no interest to readers.
  table.show(
    f'Learned factors of the step size after {args.steps} steps of SGD, by the'
    ' objective of φ',
    rows,
    args,
    'The factors s and the loss are means over the second half of the run, one'
    ' seed; with one factor per layer, the smallest and the largest are given.'
    ' The accuracy is that after the last step, at a constant α.',
  )


def _row(
  rate: float, shape: str, objective: str, outcome: Outcome
) -> table.Row:
  factors = outcome.factors or [1.0]
  ends = [f'{min(factors):.2f}', f'{max(factors):.2f}']
  return {
    'α': f'{rate:g}',
    's per': shape,
    'objective of φ': objective,
    's': ' to '.join(dict.fromkeys(ends)),
    'training loss': outcome.loss,
    'held-out accuracy %': f'{outcome.accuracy:.2f}',
  }


if __name__ == '__main__':
  main()
