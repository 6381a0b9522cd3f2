"""Time and memory of one step of other papers' methods, over straight-through.

  python -m benchmarks.methods [--quick] [--json FILE] [--only NAME …]

The recipes of experiments/configs/methods that train, with every layer
quantized, plain SGD and no more than one network. Activations that are
quantized are so too.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import cases, measure, table
from experiments.build import train_step
from experiments.configs import methods
from experiments.configs.recipe import recipe
from mq_jax.selection import named_leaves

QUICK = {'network': 'resnet8', 'batch_size': 16, 'rounds': 3}
STEPS_PER_EPOCH = 390


def recipes() -> dict[str, ConfigDict]:
  """Those that train, by their names."""
  loaded = {name: methods.load(name) for name in methods.NAMES}
  return {
    name: config
    for name, config in loaded.items()
    if config.epochs and not name.endswith('_vgg')
  }


def case(name: str, config: ConfigDict, args: Any) -> cases.Case:
  """One method on the network that the command line names."""
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
  at = cases.problem(
    train_step.network(config, 10), args.batch_size, args.dtype
  )
  train = train_step.make_train_step(config, at.loss_fn, STEPS_PER_EPOCH)
  state = train.init(jax.random.key(1), at.params, at.model_state, at.batch)
  return cases.Case(name, train.step_fn, cases.host(state), at.batch)


def numbers(state: Any) -> int:
  """How many numbers a state holds, keys left out."""
  return sum(
    leaf.size
    for leaf in named_leaves(state._replace(key=())).values()
    if hasattr(leaf, 'size')
  )


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__.splitlines()[0])
  options.add_argument('--only', nargs='+', choices=tuple(recipes()))
  options.add_argument(
    '--steps', type=int, default=2, help='steps to time in one go'
  )
  args = table.parse(options, QUICK)
  chosen = {
    name: config
    for name, config in recipes().items()
    if not args.only or name in args.only
  }
  compared = [case(cases.STE, recipe('dorefa'), args)]
  compared += [case(name, config, args) for name, config in chosen.items()]
  weights = sum(
    leaf.size
    for leaf in named_leaves(compared[0].state.params).values()
    if leaf.ndim >= 2
  )
  programs = [measure.compile_case(one, args.steps) for one in compared]
  seconds = measure.interleaved(programs, args.rounds)
  rows = [
    {
      'method': program.name,
      'ms': measure.medians(seconds)[i],
      'time / STE': measure.ratios(seconds, i, over=0),
      'peak memory / STE': program.memory / programs[0].memory,
      'numbers kept a weight': (
        numbers(compared[i].state) - numbers(compared[0].state)
      )
      / weights,
    }
    for i, program in enumerate(programs)
  ]
  table.show(
    'One step of a method: median (least-largest) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    rows,
    args,
    'Every layer quantized, SGD. STE is dorefa at 1 bit. Numbers kept: beyond'
    ' those of STE, which are weights, gradients, norms and their statistics.',
  )


if __name__ == '__main__':
  main()
