r"""Measures how far the weights of each rule stay from those of STE.

  python -m benchmarks.trajectories --pretrained FILE [--data_dir DIR] \
    [--json FILE]

All rules start from the same weights and see the same batches, at 1 bit in
every layer (dorefa). Under SGD, the step size of a rule is that of the
straight-through rule times the ratio of the lengths of their first gradients.
Under Adam, which divides by the size of a gradient, it is the same. The row
`ste, other batches` is the straight-through rule on other batches: the distance
that noise makes. Schedules of rules span the steps.

References:
  Custom Gradient Estimators are Straight-Through Estimators in Disguise, 2024.
  For small step sizes, many estimators equal the straight-through rule with
  another step size. https://arxiv.org/abs/2405.05171
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mq_jax
from benchmarks import rules, table
from experiments.build import losses
from experiments.build.networks import make_network
from experiments.build.schema import default_config
from experiments.records import torch_weights
from experiments.training.train import make_pipeline
from mq_jax import selection
from mq_jax.late_update import weight_gradient

QUICK: dict[str, Any] = {'steps': 2}
OTHER_BATCHES = 'ste, other batches'
OPTIMIZERS = {
  'sgd': (optax.identity(), (1e-3, 1e-2, 1e-1)),
  'adam': (optax.scale_by_adam(), (1e-5, 1e-4, 1e-3)),
}
Leaves = dict[str, Any]


class End(NamedTuple):
  """The quantized leaves after the last step: weights and codes by path."""

  weights: Leaves
  codes: Leaves


def equal_codes(ours: End, theirs: End) -> float:
  """Returns the share of weights that have the same code, in percent."""
  same = [ours.codes[path] == theirs.codes[path] for path in ours.codes]
  return 100 * float(np.mean(np.concatenate([s.ravel() for s in same])))


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--pretrained', required=True)
  options.add_argument('--network', default='resnet20')
  options.add_argument('--dataset', default='cifar10')
  options.add_argument('--data_dir', default='')
  options.add_argument('--steps', type=int, default=50)
  options.add_argument(
    '--optimizers', nargs='+', choices=OPTIMIZERS, default=list(OPTIMIZERS)
  )
  args = table.parse(options, QUICK)
  config = default_config()
  config.update(
    network=args.network, dataset=args.dataset, data_dir=args.data_dir
  )
  pipeline = make_pipeline(config)
  loss_fn = losses.make_loss(make_network(config, len(pipeline.classes)))
  model = torch_weights.load_any(args.pretrained)
  start = jax.random.key(0), model.params, model.batch_stats
  made = rules.rules(args.steps)

  def batches(seed: int) -> Iterator[Any]:
    return (pipeline.train(seed, k) for k in range(args.steps + 1))

  rows = []
  for optimizer in args.optimizers:
    refine, rates = OPTIMIZERS[optimizer]
    trains = {
      name: mq_jax.make_train_step(
        loss_fn, mq_jax.dorefa(), rule, refine=refine
      )
      for name, rule in made.items()
    }

    def run(name: str, rate: float, seed: int = 0, trains: Any = trains) -> End:
      first, *others = batches(seed)
      state = trains[name].init(*start, first)
      for batch in others:
        state, _ = trains[name].step(state, batch, learning_rate=rate)
      return _end(trains[name], state)

    states = {
      name: t.init(*start, next(batches(0))) for name, t in trains.items()
    }
    before = _end(trains['ste'], states['ste'])
    lengths = {
      name: _gradient_length(rule, states[name]) for name, rule in made.items()
    }
    for rate in rates:
      ste = run('ste', rate)
      moved = _distance(ste, before)
      ends = {OTHER_BATCHES: (rate, run('ste', rate, seed=1))}
      for name in made:
        if name != 'ste':
          ratio = lengths['ste'] / lengths[name] if optimizer == 'sgd' else 1.0
          ends[name] = rate * ratio, run(name, rate * ratio)
      rows += [
        {
          'optimizer': optimizer,
          'α of STE': f'{rate:g}',
          'rule': name,
          'α': f'{alpha:.3g}',
          'equal codes %': equal_codes(end, ste),
          'flipped by STE %': 100 - equal_codes(ste, before),
          'distance / move of STE': _distance(end, ste) / moved,
        }
        for name, (alpha, end) in ends.items()
      ]
  del args.data_dir, args.pretrained  # Paths are of no interest to readers.
  table.show(
    f'Distance between the weights of each rule and of STE after {args.steps}'
    ' steps',
    rows,
    args,
    'Distances are over all quantized weights W, relative to the way of the'
    ' straight-through rule from the start.',
  )


def _distance(ours: End, theirs: End) -> float:
  return float(optax.tree.norm(optax.tree.sub(ours.weights, theirs.weights)))


def _end(train: mq_jax.TrainStep, state: mq_jax.State) -> End:
  codes = jax.device_get(train.codes(state))
  weights = selection.only(codes, jax.device_get(state.params))
  return End(weights, codes)


def _gradient_length(
  rule: mq_jax.GradientEstimator, state: mq_jax.State
) -> float:
  selected = selection.select(state.params, mq_jax.dorefa())
  gradient, _ = weight_gradient(rule, selected, (), state)
  return float(
    optax.tree.norm(selection.only(selected, gradient)).astype(jnp.float32)
  )


if __name__ == '__main__':
  main()
