"""Times products by kernels of 2 and 4 bits in ONNX Runtime, on CPU.

  python -m benchmarks.few_bits [--quick] [--json FILE]

Exports a transformer and a network of wide linear layers, both with random
weights, as experiments.deploy does: in float32, with ternary kernels (2 bits in
ONNX), and with those of SEQ (2 bits, 4 in ONNX). Needs the extra `onnx`.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

import mq_jax
from benchmarks import measure, table
from experiments.build.networks import make_network
from experiments.configs import gpt
from experiments.deploy import artefact, export
from mq_jax import methods

QUICK = {'rounds': 2, 'width': 128, 'threads': (1,)}
ROWS = (1, 16, 128)
ROUND_SECONDS = 0.2
LAYERS = 4
QUANTIZERS = {'2 bits': methods.absmean(), '4 bits': methods.seq()}


class Case(NamedTuple):
  """A network.

  Attributes:
    name: Name of the network.
    apply: `(params, inputs) -> outputs`.
    params: Random parameters.
    inputs: Shape and type of the inputs of the ONNX model.
    rules: `(quantizer) -> rules` of its kernels.
    rows: `(count) -> inputs` of so many rows: tokens or vectors.
  """

  name: str
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  inputs: jax.ShapeDtypeStruct
  rules: Callable[[mq_jax.Quantizer], mq_jax.selection.Rules]
  rows: Callable[[int], np.ndarray]


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--width', type=int, default=512)
  options.add_argument('--threads', type=int, nargs='+', default=[1, 2])
  args = table.parse(options, QUICK)
  export.check_onnx()
  with tempfile.TemporaryDirectory() as folder:
    rows = [
      row
      for case in (_transformer(args.width), _linear(4 * args.width))
      for row in _rows(case, pathlib.Path(folder), args)
    ]
  table.show(
    'Networks with kernels of few bits in ONNX Runtime, against float32:'
    f' median (minimum-maximum) of {args.rounds} interleaved rounds',
    rows,
    args,
    f'The transformer has {LAYERS} blocks of width {args.width}, the other'
    f' network {LAYERS} linear layers of width {4 * args.width}. A row is a'
    ' token or a vector. The runtime rounds the inputs of products to 8 bits,'
    ' and the error is that of the outputs relative to the largest; "float32'
    ' inputs" does not round them.',
  )


def _transformer(width: int) -> Case:
  config = gpt.get_config(
    depth=LAYERS,
    embed_dim=width,
    heads=4,
    activation_quantizer='relu',
    activation_bits=2,
  )
  net = make_network(config, 256)
  tokens = jnp.zeros((1, 2), jnp.int32)
  params = jax.jit(net.init)(jax.random.key(0), tokens)['params']
  (length,) = jax_export.symbolic_shape('length')
  return Case(
    'transformer',
    lambda params, tokens: net.apply(
      {'params': params}, tokens.astype(jnp.int32)
    ),
    params,
    jax.ShapeDtypeStruct((1, length), jnp.uint8),
    lambda quantizer: [('blocks/.*/kernel', mq_jax.per(quantizer, axes=0))],
    lambda count: np.random.default_rng(0).integers(
      0, 256, (1, count), np.uint8
    ),
  )


def _linear(width: int) -> Case:
  std = (2 / width) ** 0.5
  params = {
    f'layer{number}': {
      'kernel': std * jax.random.normal(jax.random.key(number), (width, width))
    }
    for number in range(LAYERS)
  }

  def apply(params: Any, x: jax.Array) -> jax.Array:
    for layer in params.values():
      x = jax.nn.relu(x @ layer['kernel'])
    return x

  (count,) = jax_export.symbolic_shape('count')
  return Case(
    'linear layers',
    apply,
    params,
    jax.ShapeDtypeStruct((count, width), jnp.float32),
    lambda quantizer: [('.*/kernel', quantizer)],
    lambda count: (
      np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    ),
  )


def _rows(case: Case, folder: pathlib.Path, args: Any) -> Iterator[table.Row]:
  files = {}
  for bits, quantizer in QUANTIZERS.items():
    packed = mq_jax.pack(case.params, case.rules(quantizer)).params
    # The same weights in float32.
    for name, params in (
      (bits, packed),
      (f'float32 for {bits}', mq_jax.unpack(packed)),
    ):
      files[name] = folder / f'{case.name} {name}.onnx'
      model = export.onnx_model(
        case.apply, params, 'x', case.inputs, smallest=0
      )
      files[name].write_bytes(model.SerializeToString())
  for threads in args.threads:
    sessions = {
      name: artefact.open_session(path, exact, threads)
      for name, path, exact in (
        ('float32', files['float32 for 2 bits'], True),
        ('float32 for 4 bits', files['float32 for 4 bits'], True),
        ('2 bits', files['2 bits'], False),
        ('4 bits', files['4 bits'], False),
        ('2 bits, float32 inputs', files['2 bits'], True),
      )
    }
    for count in ROWS:
      inputs = {'x': case.rows(count)}
      outputs = {
        name: session.run(None, inputs)[0] for name, session in sessions.items()
      }
      errors = {
        bits: _error(outputs[bits], outputs[full])
        for bits, full in (
          ('2 bits', 'float32'),
          ('4 bits', 'float32 for 4 bits'),
        )
      }
      timed = [name for name in sessions if name != 'float32 for 4 bits']
      seconds = measure.interleaved(
        [_program(name, sessions[name], inputs) for name in timed], args.rounds
      )
      yield {
        'network': case.name,
        'threads': threads,
        'rows': count,
        'float32 ms': measure.medians(seconds)[0],
        **{
          f'{name}, times faster': measure.ratios(seconds, 0, over=number)
          for number, name in enumerate(timed)
          if number
        },
        **{f'error, {bits}': error for bits, error in errors.items()},
      }


def _error(found: np.ndarray, expected: np.ndarray) -> float:
  return float(np.abs(found - expected).max() / np.abs(expected).max())


def _program(
  name: str, session: Any, inputs: dict[str, np.ndarray]
) -> measure.Program:
  """Returns a program that runs as often as fits into `ROUND_SECONDS`."""
  session.run(None, inputs)
  began = time.perf_counter()
  session.run(None, inputs)
  steps = max(1, round(ROUND_SECONDS / (time.perf_counter() - began)))

  def run() -> float:
    began = time.perf_counter()
    for _ in range(steps):
      session.run(None, inputs)
    return (time.perf_counter() - began) / steps

  return measure.Program(name, run, 0, 0.0, 0.0)


if __name__ == '__main__':
  main()
