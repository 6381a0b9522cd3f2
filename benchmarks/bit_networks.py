"""Compares networks of ±1 that count bits with the same networks in float32.

  python -m benchmarks.bit_networks [--quick] [--json FILE] [--max_isa=AVX2]

The networks predict on CPU, with Bi-Real's activation and kernels of ±1.
Kernels are either arguments of the program, which packs them in every call, or
constants of the program: floats, or weights packed by `mq_jax.pack`.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import mq_jax
from benchmarks import cases, measure, table
from experiments.build.networks import ACTIVATION_QUANTIZERS
from mq_jax import models
from mq_jax.selection import named_leaves, nested

Array = jax.Array

NETWORKS = ('resnet20', 'vgg_small')
BATCHES = (1, 64)
QUICK = {'rounds': 3}
# FLOPs of the float network per round.
ROUND_FLOPS = 4e9
# The input of the first layer is the image, not ±1.
RULES = (('(stem|conv1|head)/kernel', None), ('.*/kernel', mq_jax.bwn()))


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument(
    '--max_isa',
    default='',
    help="largest instruction set, by XLA's name, such as AVX2",
  )
  args = table.parse(options, QUICK)
  limit = ''
  if args.max_isa:
    # XLA reads the flags when the first array is created.
    flags_before = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = (
      f'{flags_before} --xla_cpu_max_isa={args.max_isa}'.strip()
    )
    limit = f', with no more than {args.max_isa}'
  rows = [
    _row(network, batch, args.rounds)
    for network in NETWORKS
    for batch in BATCHES
  ]
  table.show(
    f'Networks of ±1, by counting bits and in float32{limit}: median'
    f' (minimum-maximum) of {args.rounds} rounds',
    rows,
    args,
    'Each ratio is over float32 with kernels passed in the same way.',
  )


def exact_params(net: Any, images: Array) -> Any:
  """Returns random parameters with kernels of ±1, exact for every program.

  Norms are folded, and all numbers are multiples of powers of two: sums of
  floats are then exact in any order, and no sign depends on a rounding.

  Args:
    net: Network in which a norm or a bias follows every kernel.
    images: A batch, or its shape and dtype.
  """
  like = jax.eval_shape(
    lambda images: net.init(jax.random.key(0), images, train=False), images
  )
  rng = np.random.default_rng(0)
  norms = {
    path.removesuffix('/mean') for path in named_leaves(like['batch_stats'])
  }
  leaves = {}
  for path, leaf in named_leaves(like['params']).items():
    layer, _, name = path.rpartition('/')
    if name == 'kernel':
      values = rng.choice([-1.0, 1.0], leaf.shape)
    elif name == 'scale':
      values = rng.choice([2.0**-4, 2.0**-5], leaf.shape)
    else:
      values = rng.integers(-64, 65, leaf.shape) / 64
      path = f'{layer}/shift' if layer in norms else path
    leaves[path] = jnp.asarray(values, leaf.dtype)
  return nested(leaves)


def exact_images(batch: int, side: int = 32) -> Array:
  """Returns random images whose values are multiples of a quarter."""
  values = np.random.default_rng(1).integers(-8, 9, (batch, side, side, 3))
  return jnp.asarray(values / 4, jnp.float32)


def _row(network: str, batch: int, rounds: int) -> table.Row:
  activation = ACTIVATION_QUANTIZERS['bi_real'].make(ConfigDict())
  net = getattr(models, network)(activation=activation)
  images = exact_images(batch)
  params = exact_params(net, images)
  packed = mq_jax.pack(params, RULES, quantized=True)
  counting = net.clone(count_bits=True)
  compared = [
    _case('float32', net, images, params),
    _case('bits', counting, images, params),
    _case('float32, constants', net, images, constants=params),
    _case('bits, constants', counting, images, constants=params),
    _case('bits, packed constants', counting, images, constants=packed),
  ]
  if differing := measure.differing(compared):
    raise SystemExit(f'The logits of {differing[0]!r} differ from float32.')
  seconds = measure.rounds_of(compared, ROUND_FLOPS, rounds)
  times = measure.medians(seconds)
  return {
    'network': network,
    'batch': batch,
    'float32 ms': times[0],
    'bits ms': times[1],
    'ratio': measure.ratios(seconds, 1, over=0),
    'constants: float32 ms': times[2],
    'constants: bits ms': times[3],
    'constants: ratio': measure.ratios(seconds, 3, over=2),
    'packed constants: ratio': measure.ratios(seconds, 4, over=2),
  }


def _case(
  name: str, net: Any, images: Array, params: Any = None, constants: Any = None
) -> cases.Case:
  def step_fn(total: Array, batch: Any) -> tuple[Array, Array]:
    params, images = batch
    params = mq_jax.unpack(constants) if params is None else params
    y = net.apply({'params': params}, images, train=False)
    # The sum makes each step wait for the previous one.
    return total + y[0, 0], y

  return cases.Case(name, step_fn, np.float32(0), (params, images))


if __name__ == '__main__':
  main()
