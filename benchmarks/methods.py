"""Compares time and memory of other papers' methods with straight-through.

  python -m benchmarks.methods [--quick] [--json FILE] [--only NAME …]

The cases are the recipes of experiments/configs/methods that train, on one
network, with every layer quantized and plain SGD. Quantized activations are
kept.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

import mq_jax
from benchmarks import cases, measure, table
from experiments.build.networks import make_network
from experiments.build.parts import make_parts
from experiments.configs import methods, resnet20

QUICK = {'network': 'resnet8', 'batch_size': 16, 'rounds': 3}
STEPS_PER_EPOCH = 390


def recipes() -> dict[str, ConfigDict]:
  """Returns the recipes that train, by name."""
  loaded = {name: methods.load(name) for name in methods.NAMES}
  return {
    name: config
    for name, config in loaded.items()
    if config.epochs and not name.endswith('_vgg')
  }


def make_case(name: str, config: ConfigDict, args: Any) -> cases.Case:
  """Returns one method on the network that the command line names."""
  config = ConfigDict(config)
  config.update(
    network=args.network,
    dtype=args.dtype,
    float_layers='',
    optimizer='sgd',
    weight_decay=0.0,
    head_norm=False,
    loss='cross_entropy',
  )
  at = cases.problem(make_network(config, 10), args.batch_size, args.dtype)
  parts = make_parts(config, STEPS_PER_EPOCH)
  train = mq_jax.make_train_step(at.loss_fn, **parts.step_arguments)
  state = train.init(jax.random.key(1), at.params, at.model_state, at.batch)
  return cases.Case(name, train.step_fn, jax.device_get(state), at.batch)


def numbers(state: Any) -> int:
  """Returns the count of numbers in a state, without its keys."""
  leaves = jax.tree.leaves(state._replace(key=()))
  return sum(leaf.size for leaf in leaves if hasattr(leaf, 'size'))


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__)
  options.add_argument('--only', nargs='+', choices=tuple(recipes()))
  options.add_argument('--steps', type=int, default=2, help='steps per turn')
  args = table.parse(options, QUICK)
  chosen = {
    name: config
    for name, config in recipes().items()
    if not args.only or name in args.only
  }
  compared = [make_case(cases.STE, resnet20.get_config(estimator='ste'), args)]
  compared += [make_case(name, config, args) for name, config in chosen.items()]
  ste = compared[0].state
  programs, seconds = measure.timed(compared, args.steps, args.rounds)
  rows = [
    {
      'method': program.name,
      'ms': measure.medians(seconds)[i],
      'time / STE': measure.ratios(seconds, i, over=0),
      'peak memory / STE': program.memory / programs[0].memory,
      'numbers kept per weight': (numbers(compared[i].state) - numbers(ste))
      / cases.weights(ste),
    }
    for i, program in enumerate(programs)
  ]
  table.show(
    'One step of a method: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    rows,
    args,
    'Every layer is quantized, under SGD. STE is dorefa at 1 bit. Numbers kept'
    ' are those that STE does not keep.',
  )


if __name__ == '__main__':
  main()
